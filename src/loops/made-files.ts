/**
 * The file loop: what Claude made in a session becomes messages. Files do not show in the event log: after tools were used
 * they are looked for, a few times, as they are listed late. Each is dealt with once, by its id: its message and the note
 * that it exists are one transaction.
 */
import type { Remote, RemoteFile } from "../claude/line.ts";
import { BridgeError, toFault } from "../core/errors.ts";
import type { Millis, OutboundBody } from "../core/model.ts";
import { plainText } from "../core/reply.ts";
import type { Bridge } from "./bridge.ts";
import { looksMs } from "../store/files.ts";
import { createQueue, type Queue } from "./queue.ts";

/** A file waits in the database as text, a third larger than it is: more than this is no matter for a chat. */
const fileBytesMax = 10 * 2 ** 20;
/** Files of one look; the rest is said in words. */
const filesMax = 10;
/** One after the other: each is in memory as a whole. */
const sessionsMax = 1;
/** A file is not waited for as an answer is: a failed look is repeated after this. */
const retryMs: Millis = 32_000;

export function createFileLoop(bridge: Bridge): Queue {
  const { store, line } = bridge;
  /** Sessions that were seen to be due: the first look waits a little, for files are listed late. */
  const seen = new Set<string>();
  return createQueue(bridge, {
    name: "files",
    keys: store.files.due,
    async work(sessionId, signal) {
      const looks = store.files.looks(sessionId);
      if (looks === null) return null;
      if (looks === 0 && !seen.has(sessionId)) {
        seen.add(sessionId);
        return looksMs[0] ?? null;
      }
      seen.delete(sessionId);
      try {
        const { remote } = line;
        const remoteId = store.sessions.get(sessionId)?.remoteId ?? null;
        if (remote !== null && remoteId !== null) {
          await look(bridge, remote, sessionId, await remote.files(remoteId, signal), signal);
          return store.files.markLooked(sessionId);
        }
        store.files.giveUp(sessionId);
      } catch (error) {
        if (signal.aborted) return null;
        if (!(error instanceof BridgeError) || error.code === "database") throw error;
        bridge.log.warn("could not look for files", { session: sessionId, ...toFault(error) });
        if (error.retry !== "never") return Math.max(retryMs, error.retryAfterMs ?? 0);
        store.files.giveUp(sessionId);
      }
      return null;
    },
    isOpen: () => bridge.account() !== null,
    max: sessionsMax,
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

/** The last part of a path, without what could not be seen or would turn the text around it. */
function nameOf({ name }: RemoteFile): string {
  const last =
    name
      .split(/[\\/]/u)
      .at(-1)
      ?.replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "") ?? "";
  return last.trim().slice(-100) || "file";
}
