/**
 * What systemd, or whoever else listens at $NOTIFY_SOCKET, is told (sd_notify(3)): readiness, the end, a reload,
 * and at half of $WATCHDOG_USEC that the event loop still turns.
 */
import type { Logger } from '../log.ts';
import { native } from '../native/binding.ts';
import { call } from '../native/call.ts';
import { errnoName, errnoOf } from '../native/errno.ts';

const VARIABLES = ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID'] as const;

export class ServiceManager implements Disposable {
  /** Undefined: nobody wants to know. */
  readonly #socket: string | undefined;
  /** Milliseconds in which a sign of life is due; undefined: no watchdog. */
  readonly #watchdogMs: number | undefined;
  readonly #log: Logger;
  /** One message after the other. */
  #sent: Promise<void> = Promise.resolve();
  #timer: NodeJS.Timeout | undefined;

  private constructor(socket: string | undefined, watchdogMs: number | undefined, log: Logger) {
    this.#socket = socket;
    this.#watchdogMs = watchdogMs;
    this.#log = log;
  }

  /** Takes its variables out of the environment: children must not speak for the server. */
  static fromEnvironment(environment: NodeJS.ProcessEnv, log: Logger): ServiceManager {
    const [socket, period, pid] = VARIABLES.map((name) => {
      const value = environment[name];
      delete environment[name];
      return value;
    });
    if (socket === undefined || socket === '') {
      return new ServiceManager(undefined, undefined, log);
    }
    if (!/^[/@]./.test(socket)) {
      log.warn(
        { NOTIFY_SOCKET: socket },
        'The service manager is not told: $NOTIFY_SOCKET is no Unix socket',
      );
      return new ServiceManager(undefined, undefined, log);
    }
    const isForUs = pid === undefined || pid === String(process.pid);
    return new ServiceManager(socket, isForUs ? watchdogPeriod(period, log) : undefined, log);
  }

  /** Clients can connect; from now on the watchdog is fed. */
  ready(status: string): Promise<void> {
    this.#feedWatchdog();
    return this.#tell(`READY=1\nSTATUS=${status}`);
  }

  /** A reload has begun; `ready` ends it. The time is that of CLOCK_MONOTONIC, as `Type=notify-reload` asks. */
  reloading(): Promise<void> {
    return this.#tell(`RELOADING=1\nMONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`);
  }

  stopping(reason: string): Promise<void> {
    return this.#tell(`STOPPING=1\nSTATUS=Ending: ${reason}`);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }

  #feedWatchdog(): void {
    if (this.#watchdogMs === undefined || this.#timer !== undefined) {
      return;
    }
    const limit = this.#watchdogMs;
    let last = performance.now();
    this.#timer = setInterval(() => {
      const late = performance.now() - last;
      last += late;
      if (late > limit) {
        const [lateMs, limitMs] = [Math.round(late), Math.round(limit)];
        this.#log.warn({ lateMs, limitMs }, 'The watchdog was late: the event loop stood still');
      }
      void this.#tell('WATCHDOG=1');
    }, limit / 2).unref();
  }

  #tell(message: string): Promise<void> {
    const socket = this.#socket;
    if (socket === undefined) {
      return this.#sent;
    }
    this.#sent = this.#sent.then(async () => {
      const result = await call((done) => {
        native.notify(socket, message, done);
      });
      if (result < 0) {
        const errno = errnoName(errnoOf(result));
        this.#log.warn({ errno, message }, 'The service manager could not be told');
      }
    });
    return this.#sent;
  }
}

/** Microseconds as text to milliseconds. */
function watchdogPeriod(text: string | undefined, log: Logger): number | undefined {
  if (text === undefined) {
    return undefined;
  }
  const microseconds = /^\d+$/.test(text) ? Number(text) : 0;
  if (microseconds === 0) {
    log.warn({ WATCHDOG_USEC: text }, 'There is no watchdog: $WATCHDOG_USEC is no number of microseconds');
    return undefined;
  }
  return microseconds / 1000;
}
