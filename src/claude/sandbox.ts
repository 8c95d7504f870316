/** Files that go into a session's sandbox and come out of it. **Source:** Files API reference; Managed Agents guide, "Session files". */
import { createHash } from "node:crypto";
import { BridgeError } from "../core/errors.ts";
import type { PromptFile } from "../core/model.ts";
import { uploadTimeoutMs, walk, type ClaudeApi } from "./api.ts";
import { nullFor } from "./failure.ts";
import type { Remote, RemoteFile } from "./line.ts";
import { count, fields, idOf, string, toMillis } from "./wire.ts";

/** The API lists files that a session's agent writes there, by the session's id. */
export const outputsFolder = "/mnt/session/outputs/";
const uploadsFolder = "/mnt/session/uploads/";
const filesBeta = { betas: ["managed-agents-2026-04-01"] };
/** Bounds an endpoint that pages for ever: no chat has more files. */
const filesMax = 1000;
const placesMax = 1000;
/** Uploads expire when a sandbox does; a session that is deleted takes its files along at once. */
const uploadSeconds = 30 * 86_400;

export type Sandbox = ReturnType<typeof createSandbox>;

export function createSandbox(api: ClaudeApi) {
  async function* pages(remoteId: string, signal: AbortSignal): AsyncGenerator<readonly unknown[]> {
    const query = { scope_id: remoteId, limit: 100, ...filesBeta };
    let seen = 0;
    for await (const page of walk(api, { what: "list the files" }, ({ beta }) => beta.files.list(query, { signal }))) {
      yield page;
      if ((seen += page.length) >= filesMax) return;
    }
  }
  const list: Remote["files"] = async (remoteId, signal) => {
    const found: RemoteFile[] = [];
    for await (const page of pages(remoteId, signal))
      // Files that were mounted into the session are listed too, and cannot be downloaded.
      for (const wire of page.map(fields))
        if (wire["downloadable"] !== false)
          found.push({
            id: idOf(wire, "list the files"),
            name: string(wire["filename"]),
            contentType: string(wire["mime_type"]),
            sizeBytes: count(wire["size_bytes"]),
            createdAt: toMillis(wire["created_at"]) ?? 0,
          });
    // The API lists the newest first: `reverse` orders files whose times tie.
    return found.reverse().sort((a, b) => a.createdAt - b.createdAt);
  };
  /** Resolves to null for a file that is deleted, expired or not for us. */
  const download: Remote["download"] = (fileId, bytesMax, signal) =>
    nullFor(
      "claude_request",
      api.bytes(
        { what: "fetch a file" },
        ({ beta }, options) => beta.files.download(fileId, filesBeta, options),
        bytesMax,
        signal,
      ),
    );
  return {
    list,
    download,
    mount: createMount(api),
    /** Deletes all files of the session: those that Claude made and those that were sent to it. */
    async empty(remoteId: string, signal: AbortSignal): Promise<void> {
      const ids: string[] = [];
      for await (const page of pages(remoteId, signal)) ids.push(...page.map((wire) => string(fields(wire)["id"])));
      for (const id of ids.filter((id) => id !== ""))
        await nullFor(
          "claude_request",
          api.call({ what: "delete a file" }, ({ beta }) => beta.files.delete(id, filesBeta, { signal })),
        );
    },
  };
}

/** Puts a file where the sandbox can read it; resolves to the words that tell Claude its place. */
function createMount(api: ClaudeApi) {
  /** Files that this process has mounted, since a prompt that is posted again brings its files again. */
  const places = new Map<string, string>();
  return async (remoteId: string, file: PromptFile, signal: AbortSignal): Promise<string> => {
    const key = `${remoteId} ${createHash("sha256").update(file.base64).digest("hex")}`;
    const known = places.get(key);
    if (known !== undefined) return known;
    const name = (file.fileName ?? "file").replace(/[^\w.-]/gu, "_").slice(-100);
    const upload = new File([Uint8Array.fromBase64(file.base64)], name, { type: file.contentType });
    const timeout = uploadTimeoutMs([file], api.bounds.headersMs);
    try {
      const params = { file: upload, expires_in_seconds: uploadSeconds };
      const sent = await api.call({ what: "upload a file" }, ({ beta }) =>
        beta.files.upload(params, { signal, timeout }),
      );
      const id = idOf(sent, "upload a file");
      const mount_path = `${uploadsFolder}${id}-${name}`;
      const resource = { type: "file", file_id: id, mount_path } as const;
      await api.call({ what: "hand a file over" }, ({ beta }) =>
        beta.sessions.resources.add(remoteId, resource, { signal }),
      );
      if (places.size >= placesMax) places.clear();
      places.set(key, `is in your sandbox at ${mount_path}`);
      return `is in your sandbox at ${mount_path}`;
    } catch (error) {
      if (!(error instanceof BridgeError) || error.retry !== "never") throw error;
      return "could not be handed over";
    }
  };
}
