/** A peer that broke the framing, or must be cut off because the protocol has no error reply for its case. */
export interface Violation {
  readonly code:
    | 'ERR_NBD_BAD_MAGIC'
    | 'ERR_NBD_CLIENT_FLAGS'
    | 'ERR_NBD_OPTION_FLOOD'
    | 'ERR_NBD_EXPORT_REFUSED'
    | 'ERR_NBD_PAYLOAD_FLOOD'
    | 'ERR_NBD_PLAINTEXT_AFTER_STARTTLS';
  /** One line for the log. */
  readonly message: string;
}

export function violation(code: Violation['code'], message: string): Violation {
  return { code, message };
}
