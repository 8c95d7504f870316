/** Tells hosts that are this machine: there the status page may listen, cleartext is no leak, and a proxy cannot help. */
import { isIPv4 } from "node:net";

/**
 * True where only this machine answers at `host`, which is a host of a setting or a `URL`'s (an IPv6 address in brackets or without):
 * `localhost`, 127.0.0.0/8 or ::1. Names below `localhost` do not count: RFC 6761 lets a resolver ask the network for them.
 */
export function isLoopback(host: string): boolean {
  const name = host.replace(/^\[(.*)\]$/u, "$1").toLowerCase();
  return name === "localhost" || name === "::1" || (isIPv4(name) && name.startsWith("127."));
}
