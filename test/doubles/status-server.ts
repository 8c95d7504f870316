/** The status server of a daemon that is played: what it says, what it was told to do, and where the commands find it. */
import { writePlace } from "../../src/cli/remote.ts";
import { BridgeError } from "../../src/core/errors.ts";
import { createApp, type AppDeps } from "../../src/status/app.ts";
import { listen } from "../../src/status/listen.ts";
import type { Status } from "../../src/status/status.ts";
import { connected, nowAt } from "../status/example.ts";

export const token = "an-invented-token";

/** Everything that the app asks of a daemon; `done` takes what it was told to do. */
export const playedDaemon = (done: unknown[] = []): AppDeps => ({
  status: () => connected,
  health: () => null,
  isReady: () => true,
  control: {
    reconnect: async ({ captcha }) => void done.push(captcha ?? "reconnect"),
    async send({ to: chat, text, files }) {
      done.push({ chat, text, ...(files.length > 0 && { files }) });
      return text === "refused" ? "another-id" : "an-id";
    },
    sent: ({ id }) => (id === "an-id" ? { state: "sent", fault: null } : { state: "failed", fault: "unregistered" }),
    sync: () => Promise.reject(new BridgeError("claude_unreachable", "Cannot ask Claude as the line is down")),
    projects: () => void done.push("projects"),
    leave: ({ pid }) => void done.push({ leave: pid }),
    forget: async ({ id }) => void done.push({ forget: id }),
    archive: async ({ id }) => void done.push({ archive: id }),
  },
  token,
  scriptToken: () => "a-script's-token",
  url: () => "",
  isAnyHost: false,
  now: () => nowAt,
  report: () => undefined,
});

/** Listens on a free port; the control file of `home`, where one is given, names it. */
export async function startStatusServer(home: string | null, status: () => Status = () => connected) {
  const done: unknown[] = [];
  let url = "";
  const app = createApp({ ...playedDaemon(done), status, url: () => url });
  const server = await listen({ host: "127.0.0.1", port: 0 }, app.fetch);
  url = server.url;
  if (home !== null) writePlace(home, { url, token });
  return { ...server, done };
}
