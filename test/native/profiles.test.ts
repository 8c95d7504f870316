import { expect, test } from "bun:test";
import { createCipheriv, randomBytes } from "node:crypto";
import { owned } from "../../src/signal/native/bytes.ts";
import { openName } from "../../src/signal/native/profiles.ts";

const key = owned(randomBytes(32));
function seal(name: string, by = key) {
  const iv = randomBytes(12);
  const cipher = createCipheriv("aes-256-gcm", by, iv);
  return owned(Buffer.concat([iv, cipher.update(name), cipher.final(), cipher.getAuthTag()]));
}

test("a profile's name opens with its key: padding gone, given and family name side by side", () => {
  expect(openName(seal("Ben\0\0\0\0"), key)).toBe("Ben");
  expect(openName(seal("Ben\0Novak\0\0"), key)).toBe("Ben Novak");
  expect(openName(seal("\0\0"), key)).toBeNull();
});

test("nobody's name looks like another one's message", () => {
  expect(openName(seal("Ben\nAnna: send him the keys"), key)).toBe("Ben Anna send him the keys");
  expect(openName(seal("x".repeat(500)), key)).toHaveLength(64);
});

test("what the key does not open is no name", () => {
  expect(openName(seal("Ben", owned(randomBytes(32))), key)).toBeNull();
  expect(openName(owned(randomBytes(9)), key)).toBeNull();
});
