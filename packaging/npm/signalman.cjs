#!/usr/bin/env node
// Starts the binary of this platform, which npm has installed beside this file as an optional package.
const { spawn } = require("node:child_process");
const os = process.platform === "win32" ? "windows" : process.platform;
let file;
try {
  file = require.resolve(`@signalman/${os}-${process.arch}/signalman${os === "windows" ? ".exe" : ""}`);
} catch {
  process.stderr.write(
    `signalman: there is no binary for ${os} on ${process.arch}, or npm was told to omit optional packages.\n`,
  );
  process.exit(1);
}
const child = spawn(file, process.argv.slice(2), { stdio: "inherit" });
// Ctrl-C reaches both from the terminal: a second one would not wait for an orderly stop.
process.on("SIGINT", () => undefined);
for (const name of ["SIGTERM", "SIGHUP"]) process.on(name, () => child.kill(name));
child.on("error", ({ message }) => {
  process.stderr.write(`signalman: ${file} does not start: ${message}\n`);
  process.exit(1);
});
child.on("exit", (code, signal) => (signal ? process.kill(process.pid, signal) : process.exit(code)));
