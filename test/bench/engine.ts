/** Choices of the engine, and of its allocator. */
export type Engine = Readonly<Record<`BUN_JSC_${string}` | `MIMALLOC_${string}`, string>>;
/** Those of the unit, the launch agent, the formula and the image (`packaging/`). */
export const asService: Engine = { BUN_JSC_useJIT: "0", MIMALLOC_PURGE_DELAY: "0" };
