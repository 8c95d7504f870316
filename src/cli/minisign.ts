/**
 * Checks a signature of minisign, whose public key is in the binary.
 * **Source:** the format at jedisct1.github.io/minisign: base64 of algorithm (2 bytes), key id (8), then key or signature; `ED` signs
 * the BLAKE2b hash, `Ed` the text itself; the global signature covers signature and trusted comment.
 */
import { createHash, createPublicKey, verify } from "node:crypto";

/** What stands before an Ed25519 key in a SubjectPublicKeyInfo. **Source:** RFC 8410 */
const spkiPrefix = Buffer.from("302a300506032b6570032100", "hex");
const keyBytes = 42;
const signatureBytes = 74;
const globalBytes = 64;

const decode = (line = ""): Buffer => Buffer.from(line, "base64");

/** The signature's trusted comment where `key` made it for this text, else null. */
export function trustedComment(text: Uint8Array, signatureFile: string, key: string): string | null {
  const [, signatureLine, commentLine = "", globalLine] = signatureFile.split(/\r?\n/u);
  const [signature, global, publicKey] = [decode(signatureLine), decode(globalLine), decode(key)];
  const [, comment] = /^trusted comment: (.*)$/u.exec(commentLine) ?? [];
  const isWhole = signature.length === signatureBytes && global.length === globalBytes && publicKey.length === keyBytes;
  if (!isWhole || comment === undefined || !signature.subarray(2, 10).equals(publicKey.subarray(2, 10))) return null;
  const spki = Buffer.concat([spkiPrefix, publicKey.subarray(10)]);
  const by = createPublicKey({ key: spki, format: "der", type: "spki" });
  const algorithm = signature.toString("latin1", 0, 2);
  const signed = algorithm === "ED" ? createHash("blake2b512").update(text).digest() : text;
  const isSigned = /^E[dD]$/u.test(algorithm) && verify(null, signed, by, signature.subarray(10));
  const covered = Buffer.concat([signature.subarray(10), Buffer.from(comment)]);
  return isSigned && verify(null, covered, by, global) ? comment : null;
}
