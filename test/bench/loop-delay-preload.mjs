/**
 * Runs inside the measured server, before it (`node --import`): measures the delay of its event loop between the
 * messages "start" and "stop" of the benchmark. libuv's timer samples it, without any JavaScript on the way.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { isMainThread } from 'node:worker_threads';

if (isMainThread && process.send !== undefined) {
  let histogram;
  let resolution = 0;
  process.on('message', (message) => {
    histogram?.disable();
    if (message.command === 'start') {
      ({ resolution } = message);
      histogram = monitorEventLoopDelay({ resolution });
      histogram.enable();
      return;
    }
    // The histogram counts from timer to timer: what is beyond the interval is delay.
    const milliseconds = (percentile) => Math.max(0, histogram.percentile(percentile) / 1e6 - resolution);
    process.send({
      count: histogram.count,
      p99: milliseconds(99),
      p999: milliseconds(99.9),
      max: milliseconds(100),
    });
  });
  // The channel must not keep the server alive.
  process.channel.unref();
}
