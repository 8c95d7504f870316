/** What a prompt becomes before it goes out: once, with all that Claude takes of it, and the rest said in words. */
import { expect, test } from "bun:test";
import type { Bridge } from "../../src/loops/bridge.ts";
import { build } from "../../src/loops/request.ts";
import { createChatRig, noteOf, owner, textContent } from "../doubles/chats.ts";

test("files that are too large together are left out, and said to be", async () => {
  const rig = await createChatRig();
  try {
    const pdf = { contentType: "application/pdf", sizeBytes: null, isVoiceNote: false, isLongText: false };
    const attachments = ["a", "b", "c", "d", "e"].map((name) => ({ ...pdf, ref: name, fileName: `${name}.pdf` }));
    const id = rig.take(noteOf({ ...textContent("look"), attachments }, 1));
    const bytes = new Uint8Array(6 * 2 ** 20).fill(0xff);
    bytes.set(new TextEncoder().encode("%PDF-1.7"));
    const bridge = {
      config: {},
      lineOf: () => ({ name: "messages", hasSandbox: () => false }),
      store: rig.store,
      account: () => owner,
      transport: { attachment: async () => bytes },
      transcribe: null,
      toolsOf: async () => ({ system: "", tools: [] }),
    } as unknown as Bridge;
    const post = rig.store.posts.ofPrompt(id ?? 0);
    if (post === null) throw new Error("There is no post");
    const { request } = await build(bridge, post, new AbortController().signal);
    expect(request).toMatchObject({ files: [{ fileName: "a.pdf" }, { fileName: "b.pdf" }, { fileName: "c.pdf" }] });
    const said = request.kind === "prompt" ? request.text.split("\n").filter((line) => line.includes("too much")) : [];
    expect(said).toHaveLength(2);
  } finally {
    rig.close();
  }
});
