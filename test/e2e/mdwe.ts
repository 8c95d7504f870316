/**
 * `bun mdwe.ts PROGRAM WORD…`: becomes the program, under what systemd's `MemoryDenyWriteExecute` asks of the kernel: no memory that
 * is written to becomes code. Exit code 77 where the kernel has no such thing. **Source:** prctl(2), PR_SET_MDWE; systemd.exec(5).
 */
import { dlopen, ptr } from "bun:ffi";

const setMdwe = 65;
const refuseExecGain = 1n;
const { symbols } = dlopen("libc.so.6", {
  prctl: { args: ["int", "u64", "u64", "u64", "u64"], returns: "int" },
  execv: { args: ["ptr", "ptr"], returns: "int" },
});
if (symbols.prctl(setMdwe, refuseExecGain, 0n, 0n, 0n) !== 0) process.exit(77);
const words = process.argv.slice(2).map((word) => Buffer.from(`${word}\0`));
const list = new BigUint64Array([...words.map((word) => BigInt(ptr(word))), 0n]);
symbols.execv(words[0] ?? Buffer.alloc(1), list);
process.exit(78);
