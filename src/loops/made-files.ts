/**
 * The file loop: files that Claude made in a session become messages. The event log does not show them, so they are listed after
 * tools were used, a few times, as the API lists them late. Each is dealt with once, by its id: its message and the mark that it is
 * done are one transaction.
 */
import type { Remote, RemoteFile } from "../claude/line.ts";
import { isLogged, nextTryMs } from "../core/backoff.ts";
import { BridgeError, toFault } from "../core/errors.ts";
import type { OutboundBody } from "../core/model.ts";
import { plainText } from "../core/reply.ts";
import type { Bridge } from "./bridge.ts";
import { looksMs } from "../store/files.ts";
import { createQueue, type Queue } from "./queue.ts";

/** A larger file is only named in the chat: one that is sent waits in the database as base64, a third larger than it is. */
const fileBytesMax = 10 * 2 ** 20;
/** Files that one look sends; of the rest the chat gets the number. */
const filesMax = 10;
/** Sessions are looked at one after the other, since a file is in memory as a whole. */
const sessionsMax = 1;

export function createFileLoop(bridge: Bridge): Queue {
  const { store, line } = bridge;
  /** Looks that failed in a row, of sessions that were seen to be due: the first look waits a little, for files are listed late. */
  const failures = new Map<string, number>();
  return createQueue(bridge, {
    name: "files",
    keys: store.files.due,
    async work(sessionId, signal) {
      const looks = store.files.looks(sessionId);
      if (looks === null) return null;
      if (looks === 0 && !failures.has(sessionId)) {
        failures.set(sessionId, 0);
        return looksMs[0] ?? null;
      }
      try {
        const { remote } = line;
        const remoteId = store.sessions.get(sessionId)?.remoteId ?? null;
        if (remote !== null && remoteId !== null) {
          await look(bridge, remote, sessionId, await remote.files(remoteId, signal), signal);
          failures.delete(sessionId);
          return store.files.markLooked(sessionId);
        }
        failures.delete(sessionId);
        store.files.giveUp(sessionId);
      } catch (error) {
        if (signal.aborted) return null;
        if (!(error instanceof BridgeError) || error.code === "database") throw error;
        const attempt = (failures.get(sessionId) ?? 0) + 1;
        failures.set(sessionId, attempt);
        bridge.log[isLogged(attempt) ? "warn" : "debug"]("could not look for files", {
          session: sessionId,
          ...toFault(error),
        });
        const { retry, retryAfterMs } = error;
        const waitMs = nextTryMs(retry === "never" ? "refused" : "outage", {
          attempt,
          jitter: bridge.random(),
          retryAfterMs,
        });
        if (waitMs !== null) return waitMs;
        failures.delete(sessionId);
        giveUp(bridge, sessionId, retry === "never" ? null : lostText);
      }
      return null;
    },
    isOpen: () => bridge.account() !== null,
    max: sessionsMax,
  });
}

const lostText =
  "I have tried for a week to fetch what Claude may have made here, and have stopped now. Please ask Claude for it again.";

function giveUp({ store, clock, chats }: Bridge, sessionId: string, text: string | null): void {
  const session = store.sessions.get(sessionId);
  store.db.transaction(() => {
    store.files.giveUp(sessionId);
    if (session === null || text === null) return;
    store.outbox.add("file", { sessionId, id: "lost" }, 0, session.chat, plainText(text), clock.now());
    chats.touch(session.chat);
  });
}

async function look(
  bridge: Bridge,
  remote: Remote,
  sessionId: string,
  found: readonly RemoteFile[],
  signal: AbortSignal,
): Promise<void> {
  const { store, clock } = bridge;
  const fresh = found.filter((file) => !store.files.isDone(sessionId, file.id));
  const deliver = (files: readonly RemoteFile[], body: OutboundBody): void => {
    const session = store.sessions.get(sessionId);
    store.db.transaction(() => {
      if (session && files[0]) {
        store.outbox.add("file", { sessionId, id: files[0].id }, 0, session.chat, body, clock.now());
        bridge.chats.touch(session.chat);
      }
      for (const { id } of files) store.files.markDone(sessionId, id);
    });
  };
  for (const file of fresh.slice(0, filesMax)) {
    const isTooLarge = file.sizeBytes > fileBytesMax;
    const bytes = isTooLarge ? null : await remote.download(file.id, fileBytesMax, signal);
    deliver([file], bytes === null ? plainText(inWords(file, isTooLarge)) : toMessage(file, bytes));
  }
  const rest = fresh.slice(filesMax);
  if (rest.length > 0)
    deliver(rest, plainText(`Claude made ${rest.length} more: at most ${filesMax} files are sent at once.`));
}

function inWords(file: RemoteFile, isTooLarge: boolean): string {
  const megabytes = (bytes: number): string => `${Math.ceil(bytes / 2 ** 20)} MB`;
  return isTooLarge
    ? `Claude made ${nameOf(file)}, which is too large to be sent here: ${megabytes(file.sizeBytes)}, and ${megabytes(fileBytesMax)} are allowed.`
    : `Claude made ${nameOf(file)}, but it could not be fetched.`;
}

const toMessage = (file: RemoteFile, bytes: Uint8Array): OutboundBody => {
  const contentType = /^[\w.+-]+\/[\w.+-]+$/u.test(file.contentType) ? file.contentType : "application/octet-stream";
  const files = [{ fileName: nameOf(file), contentType, base64: bytes.toBase64() }];
  return { kind: "text", text: "", styles: [], quote: null, files };
};

/** The last part of a path, without characters that are invisible or reverse the text around them. */
function nameOf({ name }: RemoteFile): string {
  const last =
    name
      .split(/[\\/]/u)
      .at(-1)
      ?.replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "") ?? "";
  return last.trim().slice(-100) || "file";
}
