/** What this program calls itself; the commit is put in by `build.ts`. */
import manifest from "../package.json" with { type: "json" };

declare const SIGNALMAN_COMMIT: string | undefined;
declare const SIGNALMAN_RELEASES: string | null | undefined;
declare const SIGNALMAN_RELEASE_KEY: string | null | undefined;

export const version: string = manifest.version;
/** Short commit of the build, or `source` when run from the source. */
export const commit: string = typeof SIGNALMAN_COMMIT === "string" ? SIGNALMAN_COMMIT : "source";
/** Where the releases of this build are, null where the build names no place. */
export const releasesUrl: string | null = typeof SIGNALMAN_RELEASES === "string" ? SIGNALMAN_RELEASES : null;
/** The public key (minisign) that signs them; null in a build without one: then only TLS says whose they are. */
export const releaseKey: string | null = typeof SIGNALMAN_RELEASE_KEY === "string" ? SIGNALMAN_RELEASE_KEY : null;
/** Where the documents are; null where the build names no place. */
export const homepage: string | null = releasesUrl?.replace(/\/releases\/.*$/u, "") ?? null;
