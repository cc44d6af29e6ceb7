/**
 * - `connecting`: an attempt is under way
 * - `open`: messages go through
 * - `waiting`: there is no connection, and an attempt will be made
 * - `closed`: for good, until `connect()`
 */
export type State = "connecting" | "open" | "waiting" | "closed";

/** What can be sent. */
export type Payload = string | ArrayBuffer | ArrayBufferView | Blob;

/**
 * Where to connect. A relative URL is resolved against the page's, and `http:` stands for `ws:`, so
 * `"/"` is the server that the page came from. A function is called for each attempt; if it
 * throws or rejects, the attempt has failed and there will be another one.
 */
export type Url = string | URL | (() => string | URL | Promise<string | URL>);

/** All times are in milliseconds. `Infinity` is never. */
export interface Options {
  /**
   * The subprotocols to offer. A function is called for each attempt, so that a token among them is
   * always fresh; what is said of the function of a URL holds for this one too.
   */
  protocols?: string | string[] | (() => string | string[] | Promise<string | string[]>);
  /** After which close codes there is no other attempt. Default: {@link isFinal}. */
  isFinal?: (code: number, reason: string) => boolean;
  /**
   * The first attempt after a loss is made at a random moment in this time, and the time doubles
   * with each attempt that fails. Default: 1000.
   */
  firstDelay?: number;
  /** Up to this. Default: 30000. */
  maxDelay?: number;
  /** A connection that has held this long starts the doubling anew. Default: 5000. */
  stableAfter?: number;
  /** How long an attempt may take, the functions included. Default: 10000. */
  connectTimeout?: number;
  /**
   * After this long a silence the text message `ping` is sent, which the server answers with `pong`.
   * Neither is seen as a message. `Infinity` if the server does not answer it. Default: 25000.
   */
  pingInterval?: number;
  /** If nothing at all is heard for this long then, the connection is given up. Default: 8000. */
  pongTimeout?: number;
  /**
   * What may wait while there is no connection: bytes of binary, characters of text, and one more
   * for each message. 0: nothing waits. Default: 65536.
   */
  queueSize?: number;
  /** What binary messages are received as. Default: `"arraybuffer"`. */
  binaryType?: BinaryType;
  /** What makes connections, where there is no global `WebSocket`, as in Node before 22. */
  WebSocket?: new (url: string, protocols: string | string[]) => unknown;
}

/** A message was received. */
export interface MessageReceived extends Event {
  /** A string, or what `binaryType` says. */
  readonly data: any;
}

/** A connection is open. What its listeners send goes before what has been waiting. */
export interface Opened extends Event {
  /** The subprotocol that the server chose, or `""`. */
  readonly protocol: string;
}

/** A connection ended, or an attempt failed. */
export interface Closed extends Event {
  /** The close code; 1006 without a closing handshake, and if no connection came about. */
  readonly code: number;
  readonly reason: string;
  /** In how many milliseconds the next attempt is made; `null` if there will be none. */
  readonly delay: number | null;
  /** What a function of the options threw. */
  readonly error?: unknown;
  /** If there will be no other attempt, the messages that were waiting and are given up. */
  readonly unsent: Payload[];
}

/** By event. `state` is told whenever `state` has changed, and before the others. */
export interface Events {
  state: Event;
  open: Opened;
  message: MessageReceived;
  close: Closed;
}

type Listener<E> = ((event: E) => unknown) | { handleEvent(event: E): unknown } | null;

/** A WebSocket that comes back. It begins to connect when it is made. */
export class ReconnectingSocket extends EventTarget {
  /**
   * @throws {TypeError} if `url` is no URL
   */
  constructor(url: Url, options?: Options);
  readonly state: State;
  /** How many messages wait for a connection. */
  readonly queued: number;
  /** Makes an attempt now, rather than when the delay is over. Does nothing if one is under way. */
  connect(): void;
  /**
   * Sends a message, or lets it wait for the next connection.
   *
   * What was sent when a connection breaks may be lost: only an answer tells that it arrived.
   *
   * @returns false if it is neither sent nor waits: `queueSize` is reached, or it is closed for good
   */
  send(data: Payload): boolean;
  /** Closes for good. What was waiting is given up, and told by `close`. */
  close(code?: number, reason?: string): void;
  addEventListener<K extends keyof Events>(
    type: K,
    listener: Listener<Events[K]>,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof Events>(
    type: K,
    listener: Listener<Events[K]>,
    options?: boolean | EventListenerOptions,
  ): void;
}

/**
 * The codes after which another attempt would end in the same way: 1000 (the server has finished),
 * 1002, 1003, 1007, 1010 (it did not understand) and 1008 (it does not want this).
 */
export function isFinal(code: number, reason?: string): boolean;
