/**
 * A plugin and a handle that hand everything down as it is. A filter that changes only a part of it extends them
 * and overrides that part. Whoever overrides `read` or `write` has `readNow` and `writeNow` to override as well:
 * requests come through either. For filters that treat all requests alike there is InterceptedHandle.
 */
import type { Extent, Handle, Plugin, PluginInfo, ZeroOptions } from '../plugins/plugin.ts';
import type { StatusExtent } from '../protocol/reply.ts';

export abstract class PassThroughPlugin implements Plugin {
  readonly info: PluginInfo;
  /** There only when the inner plugin can tell. */
  readonly residentBytes?: NonNullable<Plugin['residentBytes']>;
  protected readonly inner: Plugin;

  /** `shift`: bytes of the inner export before the first of this one. */
  constructor(inner: Plugin, info: PluginInfo = inner.info, shift = 0) {
    this.inner = inner;
    this.info = info;
    if (inner.residentBytes !== undefined) {
      const residentBytes = inner.residentBytes.bind(inner);
      this.residentBytes = (offset, length) => residentBytes(offset + shift, length);
    }
  }

  get lossCount(): number | undefined {
    return this.inner.lossCount;
  }

  async open(): Promise<Handle> {
    return this.wrap(await this.inner.open());
  }

  close(): Promise<void> {
    return this.inner.close();
  }

  settle(): Promise<void> {
    return settle(this.inner);
  }

  abandon(): Promise<void> {
    return abandon(this.inner);
  }

  /** Puts the filter's own handle on one of the inner plugin. */
  protected abstract wrap(handle: Handle): Handle;
}

/** Flushes a plugin whose handles are in use. */
export function settle(plugin: Plugin): Promise<void> {
  return plugin.settle?.() ?? plugin.close();
}

/** Gives up a plugin that is not going to be served. */
export function abandon(plugin: Plugin): Promise<void> {
  return plugin.abandon?.() ?? plugin.close();
}

export class PassThroughHandle implements Handle {
  protected readonly inner: Handle;

  constructor(inner: Handle) {
    this.inner = inner;
  }

  readNow(buffer: Uint8Array, start: number, length: number, offset: number): boolean {
    return this.inner.readNow?.(buffer, start, length, offset) ?? false;
  }

  read(buffer: Uint8Array, start: number, length: number, offset: number): void | Promise<void> {
    return this.inner.read(buffer, start, length, offset);
  }

  writeNow(buffer: Uint8Array, start: number, length: number, offset: number): boolean | Promise<void> {
    return this.inner.writeNow?.(buffer, start, length, offset) ?? false;
  }

  write(
    buffer: Uint8Array,
    start: number,
    length: number,
    offset: number,
    isFua: boolean,
  ): void | Promise<void> {
    return this.inner.write(buffer, start, length, offset, isFua);
  }

  flush(): void | Promise<void> {
    return this.inner.flush();
  }

  trim(offset: number, length: number, isFua: boolean): void | Promise<void> {
    return this.inner.trim(offset, length, isFua);
  }

  zero(offset: number, length: number, options: ZeroOptions, isFua: boolean): void | Promise<void> {
    return this.inner.zero(offset, length, options, isFua);
  }

  cache(offset: number, length: number): void | Promise<void> {
    return this.inner.cache(offset, length);
  }

  extents(
    offset: number,
    length: number,
    isRequestOne: boolean,
  ): readonly Extent[] | Promise<readonly Extent[]> {
    return this.inner.extents(offset, length, isRequestOne);
  }

  contextExtents(
    context: string,
    offset: number,
    length: number,
    isRequestOne: boolean,
  ): readonly StatusExtent[] | Promise<readonly StatusExtent[]> {
    if (this.inner.contextExtents === undefined) {
      throw new Error(`Bug: the inner plugin knows no meta context ${context}`);
    }
    return this.inner.contextExtents(context, offset, length, isRequestOne);
  }

  close(): void | Promise<void> {
    return this.inner.close();
  }
}
