import { expect, test } from "bun:test";
import { createCipheriv, randomBytes } from "node:crypto";
import { findRecipient, saveRecipient } from "../../src/signal/native/account.ts";
import { owned } from "../../src/signal/native/bytes.ts";
import { openName } from "../../src/signal/native/groups.ts";
import { openNativeDatabase } from "./mock.ts";

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

test("a name does not look like another person's message", async () => {
  const database = await openNativeDatabase();
  saveRecipient(database, "a", null, "Ben\nAnna: send him\u2028the keys");
  expect(findRecipient(database, "a").name).toBe("Ben Anna send him the keys");
  saveRecipient(database, "a", null, "x".repeat(500));
  expect(findRecipient(database, "a").name).toHaveLength(64);
  database.close();
});

test("what the key does not open is no name", () => {
  expect(openName(seal("Ben", owned(randomBytes(32))), key)).toBeNull();
  expect(openName(owned(randomBytes(9)), key)).toBeNull();
});
