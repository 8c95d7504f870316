/**
 * Signal's mock server in a process of its own, so that its half of the cryptography does not run on our thread, and can be
 * told from ours. Takes one order at a time over IPC, and answers it with times in ms by its own clock.
 */
import type { Device } from "@signalapp/mock-server";
import { Connection } from "@signalapp/mock-server/src/server/ws/connection";
import { startSignalMock } from "../doubles/signal-mock.ts";

export type Order =
  | { readonly do: "scan"; readonly url: string }
  /** Each text is encrypted beforehand, then handed to the server; the next one waits for its acknowledgement. */
  | { readonly do: "write"; readonly count: number }
  /** One more of these, with a text of its own. */
  | { readonly do: "say"; readonly text: string }
  /** What the server did for our sends since the last time; what the contact and the phone received is let go. */
  | { readonly do: "handled" };

const mock = await startSignalMock();
let device: Device | null = null;
let sentAt = 0;
let handled: number[] = [];

const handle = Connection.prototype["handleRequest"];
Object.assign(Connection.prototype, {
  async handleRequest(this: Connection, request: Parameters<typeof handle>[0]) {
    const from = performance.now();
    const answer = await handle.call(this, request);
    if (request.path?.startsWith("/v1/messages/")) handled.push(performance.now() - from);
    return answer;
  },
});

async function write(to: Device, texts: readonly string[]): Promise<number[]> {
  const times: number[] = [];
  for (const text of texts) {
    sentAt = Math.max(sentAt + 1, Date.now());
    // With the profile key our answers go sealed, as they do between people.
    const bytes = await mock.contact.encryptText(to, text, { timestamp: sentAt, withProfileKey: true });
    const from = performance.now();
    await mock.server.send(to, bytes);
    times.push(performance.now() - from);
  }
  return times;
}

async function execute(order: Order): Promise<readonly number[]> {
  if (order.do === "scan") device = await mock.scan(order.url);
  if (order.do === "write" && device !== null)
    return write(
      device,
      Array.from(Array(order.count), (_, n) => `ping ${n}`),
    );
  if (order.do === "say" && device !== null) return write(device, [order.text]);
  if (order.do !== "handled") return [];
  while (mock.contact.getMessageQueueSize() > 0) {
    await mock.contact.waitForMessage();
    await mock.phone.waitForSyncMessage(({ syncMessage }) => Boolean(syncMessage.content?.sent));
  }
  const times = handled;
  handled = [];
  return times;
}

process.on("message", (order: Order) => void execute(order).then((times) => process.send?.(times)));
process.on("disconnect", () => process.exit(0));
process.send?.({ service: mock.service, contact: mock.contact.device.aci });
