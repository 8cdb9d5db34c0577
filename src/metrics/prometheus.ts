/** A status in the text format of Prometheus, version 0.0.4: names end in their base unit, totals in `_total`. */
import { Counter, Gauge, type Metric, Registry } from 'prom-client';
import type { CommandStatus, Status } from './status.ts';

export const PROMETHEUS_CONTENT_TYPE = Registry.PROMETHEUS_CONTENT_TYPE;

/** A number, or one for each value of the label. */
type Values = number | readonly (readonly [label: string, value: number])[];

export function renderPrometheus(status: Status): Promise<string> {
  const registry = new Registry();
  const counter = (name: string, help: string, values: Values, label?: string): void => {
    const metric = new Counter({ name, help, labelNames: label ? [label] : [], registers: [registry] });
    each(values, label, (labels, value) => metric.inc(labels, value));
  };
  const gauge = (name: string, help: string, values: Values, label?: string): void => {
    const metric = new Gauge({ name, help, labelNames: label ? [label] : [], registers: [registry] });
    each(values, label, (labels, value) => metric.set(labels, value));
  };
  const { connections, windows, exports, loopDelay } = status;
  const commands = Object.entries(status.commands);

  gauge('nbd_serve_info', 'Version of the server; the value is always 1.', [[status.version, 1]], 'version');
  counter('nbd_serve_connections_total', 'Connections accepted.', connections.opened);
  gauge('nbd_serve_connections', 'Connections open now.', connections.current);
  counter(
    'nbd_serve_connections_refused_total',
    'Connections closed at once because there were too many.',
    connections.refused,
  );
  counter(
    'nbd_serve_requests_total',
    'Requests answered, with errors or without.',
    commands.map(([command, { requests }]) => [command, requests]),
    'command',
  );
  counter(
    'nbd_serve_request_bytes_total',
    'Bytes of the export that the requests answered without error were about.',
    commands.map(([command, { bytes }]) => [command, bytes]),
    'command',
  );
  counter('nbd_serve_errors_total', 'Error replies.', Object.entries(status.errors), 'errno');
  registry.registerMetric(
    countedHistogram(
      'nbd_serve_request_duration_seconds',
      'From taking a request on to handing its reply to the socket. One READ or WRITE in 17 is timed, every other command always.',
      status.latencyBounds,
      commands,
    ),
  );
  counter('nbd_serve_windows_written_total', 'Write windows given to the disk.', windows.written);
  counter('nbd_serve_windows_waited_total', 'Write windows waited for.', windows.waited);
  counter('nbd_serve_windows_evicted_total', 'Write windows evicted from the page cache.', windows.evicted);
  gauge(
    'nbd_serve_export_size_bytes',
    'Size of the export.',
    exports.map(({ name, size }) => [name, size]),
    'export',
  );
  gauge(
    'nbd_serve_export_resident_bytes',
    'Bytes of the export in the page cache of the host.',
    exports.flatMap(({ name, residency }) => (residency === null ? [] : [[name, residency.residentBytes]])),
    'export',
  );
  counter(
    'nbd_serve_export_losses_total',
    'Errors that cost acknowledged data.',
    exports.flatMap(({ name, lossCount }) => (lossCount === null ? [] : [[name, lossCount]])),
    'export',
  );
  gauge(
    'nbd_serve_export_latched',
    '1 when acknowledged data was lost, so that every FLUSH and FUA fails until restart; else 0.',
    exports.flatMap(({ name, lossCount }) => (lossCount === null ? [] : [[name, lossCount > 0 ? 1 : 0]])),
    'export',
  );
  if (loopDelay !== null) {
    for (const [key, what] of [
      ['p50', 'Median'],
      ['p99', '99th percentile'],
      ['max', 'Maximum'],
    ] as const) {
      gauge(
        `nbd_serve_event_loop_delay_${key}_seconds`,
        `${what} of how late the event loop of the main thread was, over some 15 s.`,
        loopDelay[key],
      );
    }
  }
  counter(
    'nbd_serve_event_loop_busy_seconds_total',
    'Time that the event loop of the main thread did not wait.',
    status.loopBusySeconds,
  );
  counter('process_cpu_seconds_total', 'Processor time of all threads.', status.processorSeconds);
  gauge('process_resident_memory_bytes', 'Resident memory of the server.', status.memoryBytes);
  gauge(
    'process_start_time_seconds',
    'Start of the server since 1970.',
    Math.round(status.time / 1000 - status.uptimeSeconds),
  );
  return registry.metrics();
}

function each(
  values: Values,
  label: string | undefined,
  add: (labels: Record<string, string>, value: number) => void,
): void {
  if (typeof values === 'number') {
    add({}, values);
  } else if (label !== undefined) {
    for (const [text, value] of values) {
      add({ [label]: text }, value);
    }
  }
}

/**
 * A histogram that was counted elsewhere, for which prom-client has no class. Its registry asks a metric for these
 * three only (registry.js of 15.1).
 */
function countedHistogram(
  name: string,
  help: string,
  bounds: readonly number[],
  commands: readonly (readonly [string, CommandStatus])[],
): Metric {
  const values = commands.flatMap(([command, { buckets, seconds }]) => {
    let count = 0;
    const cumulative = [...bounds, '+Inf'].map((le, index) => {
      count += buckets[index] ?? 0;
      return { metricName: `${name}_bucket`, labels: { command, le }, value: count };
    });
    return [
      ...cumulative,
      { metricName: `${name}_sum`, labels: { command }, value: seconds },
      { metricName: `${name}_count`, labels: { command }, value: count },
    ];
  });
  const metric = { name, help, get: async () => ({ name, help, type: 'histogram', values }) };
  return metric as unknown as Metric;
}
