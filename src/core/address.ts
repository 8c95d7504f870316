/**
 * Addresses in a text that chats make links of: up to white space, or to what ends a Chinese or Japanese sentence, which has none;
 * not the marks of emphasis and the punctuation behind it.
 */
export const address =
  /(?:https?|ftp):\/\/(?:(?!\*\*|~~|\|\|)[^\s<>"`，。；：！？、（）「」『』【】《》…“”])+(?<![*_~.,:;!?'])/g;
