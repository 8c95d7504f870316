/**
 * Puts libsignal into the compiled program: the addon of the *target* platform as an embedded file, opened by
 * `src/signal/native/load.ts` instead of by `node-gyp-build`, which a bundler cannot follow. It is embedded as it is: packed by zstd the
 * program would take 18 of 144 MB less of the disk, and each native start twice the processor time to unpack it; a release is packed as a whole.
 */
import type { BunPlugin } from "bun";
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";

/** Compile targets of Bun for which libsignal has a prebuilt addon, to the name of its folder. musl has none. */
const prebuildOf: Record<string, string> = {
  "linux-x64": "linux-x64",
  "linux-arm64": "linux-arm64",
  "darwin-x64": "darwin-x64",
  "darwin-arm64": "darwin-arm64",
  "windows-x64": "win32-x64",
  "windows-arm64": "win32-arm64",
};

/** The target of the machine that builds, in the words of `bun build --target`: `linux-x64`. */
export const hostTarget = `${process.platform === "win32" ? "windows" : process.platform}-${process.arch}`;

/**
 * For `Bun.build({ compile: { target: "bun-<target>" }, plugins: [libsignalPlugin(target)] })`. `target` is such as `linux-x64`;
 * a `bun-` in front, or `-baseline`/`-modern` behind, is allowed. @throws Error when there is no addon for it
 */
export function libsignalPlugin(target: string = hostTarget): BunPlugin {
  const folder = prebuildOf[target.replace(/^bun-/, "").replace(/-(baseline|modern)$/, "")];
  if (folder === undefined)
    throw new Error(`Cannot embed libsignal for ${target}: known are ${Object.keys(prebuildOf).join(", ")}`);
  const packageFolder = dirname(dirname(Bun.resolveSync("@signalapp/libsignal-client", import.meta.dir)));
  const addon = join(packageFolder, "prebuilds", folder, "@signalapp+libsignal-client.node");
  if (!existsSync(addon)) throw new Error(`Cannot embed libsignal for ${target}: ${addon} is missing`);
  const sha256 = createHash("sha256").update(readFileSync(addon)).digest("hex");
  const loader = resolve(import.meta.dir, "../src/signal/native/load.ts");
  return {
    name: "libsignal",
    setup(build) {
      build.onResolve({ filter: /^node-gyp-build$/ }, ({ importer }) =>
        importer.replaceAll("\\", "/").includes("/@signalapp/libsignal-client/")
          ? { path: "node-gyp-build", namespace: "libsignal" }
          : undefined,
      );
      // The package names its own folder, for `node-gyp-build` to search: a path of the machine that builds, which is not to be published.
      build.onLoad({ filter: /libsignal-client[\\/]dist[\\/]Native\.js$/ }, ({ path }) => ({
        loader: "js",
        contents: readFileSync(path, "utf8").replaceAll("import.meta.dirname", '""'),
      }));
      build.onLoad({ filter: /.*/, namespace: "libsignal" }, () => ({
        loader: "js",
        contents: [
          `import file from ${JSON.stringify(addon)} with { type: "file" };`,
          `import { openAddon } from ${JSON.stringify(loader)};`,
          `export default () => openAddon(file, ${JSON.stringify(sha256)});`,
        ].join("\n"),
      }));
    },
  };
}
