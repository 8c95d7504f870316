/** The code to scan as a page in the browser, for a machine whose terminal is out of sight: `signalman link --web`. */
import { Hono } from "hono";
import { renderSVG } from "uqr";
import type { ListenAddress } from "../settings.ts";
import { listen } from "../status/listen.ts";

export interface LinkPage {
  readonly url: string;
  /** Shows this code, or with null that the device is linked. */
  show(code: string | null): void;
  stop(): Promise<void>;
}

/** Who sees the code can link the account to a device of theirs: loopback only. @throws BridgeError where the port is taken */
export async function openLinkPage(address: ListenAddress | null): Promise<LinkPage> {
  let body = "<p>Waiting for a code…</p>";
  const app = new Hono();
  app.get("/", (c) => {
    c.header("cache-control", "no-store");
    c.header("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'");
    return c.html(page(body));
  });
  const server = await listen({ host: "127.0.0.1", port: address?.port ?? 0 }, app.fetch);
  return {
    url: server.url,
    show: (code) =>
      void (body =
        code === null
          ? "<p>Linked. Start signalman and write to yourself.</p>"
          : `${renderSVG(code, { border: 2 })}<p>On the phone: Signal › Settings › Linked devices › Link a new device.</p>`),
    stop: server.stop,
  };
}

const page = (
  body: string,
): string => `<!doctype html><html lang="en"><meta charset="utf-8"><title>signalman link</title>
<meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="2">
<style>body{font:16px system-ui;max-width:22rem;margin:2rem auto;padding:0 1rem;text-align:center}svg{width:100%}</style>
${body}</html>`;
