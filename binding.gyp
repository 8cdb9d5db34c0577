{
  "targets": [
    {
      "target_name": "nbd_serve",
      "sources": [
        "native/addon.cc",
        "native/environment.cc",
        "native/busy_poll.cc",
        "native/runnable_tasks.cc",
        "native/worker_pool.cc",
        "native/file_io.cc",
        "native/file_io_binding.cc",
        "native/ahead_chunks.cc",
        "native/bounce_buffers.cc",
        "native/direct_queue.cc",
        "native/direct_file.cc",
        "native/direct_file_binding.cc",
        "native/memory.cc",
        "native/memory_binding.cc",
        "native/page_cache.cc",
        "native/page_cache_binding.cc",
        "native/write_windows.cc",
        "native/write_windows_binding.cc",
        "native/socket.cc",
        "native/socket_binding.cc",
        "native/splice_pipe.cc",
        "native/stream_socket.cc",
        "native/stream_socket_binding.cc",
        "native/tls_context.cc",
        "native/tls_context_binding.cc",
        "native/tls_stream.cc"
      ],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
      # In a worker that is being terminated every call into JavaScript fails, so that node-addon-api cannot
      # throw that either; without the last definition it then aborts the whole process (8.9.2, Node 20).
      "defines": [
        "NAPI_VERSION=8",
        "NAPI_DISABLE_CPP_EXCEPTIONS",
        "NODE_ADDON_API_DISABLE_DEPRECATED",
        "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS"
      ],
      "cflags_cc": ["-fno-exceptions", "-fvisibility=hidden", "-Wall", "-Wextra"],
      "xcode_settings": {
        "GCC_ENABLE_CPP_EXCEPTIONS": "NO",
        "GCC_SYMBOLS_PRIVATE_EXTERN": "YES",
        "WARNING_CFLAGS": ["-Wall", "-Wextra"]
      }
    }
  ]
}
