"use strict";

// The page of the chat. What the messages mean is said in messages.py, beside this file.
//
// What the user says goes into a queue, under a random key, and stays there until the server has
// accepted it. The first in the queue is sent, and sent again after every reconnect; the server takes
// the same key for the same message. So everything is said once, and in order.

const $ = (id) => document.getElementById(id);

const room = /^\/rooms\/([a-z0-9_-]{1,32})$/.exec(location.pathname)?.[1] ?? "lobby";
const session = randomToken();
const queue = [];                 // what was not accepted yet: {key, text, item}
const shown = new Map();          // list items of messages, by key
const people = new Map();         // when they last typed, by nickname; 0: they do not

const FIRST_DELAY = 500;          // milliseconds until the first attempt to reconnect
const LONGEST_DELAY = 15_000;
const TYPING_SHOWN = 5_000;       // for how long somebody is typing who says so once
const TYPING_EVERY = 3_000;

let nick = null;                  // the wish; the server's welcome makes it a fact
let socket = null;
let wantsIn = false;              // whether the user has asked for it, and the server not refused
let joined = false;
let online = true;                // whether the servers have each other
let seen = null;                  // the id of the last message, or what the welcome gave
let attempts = 0;
let reconnecting = null;          // the timer
let inFlight = null;              // the key that was sent and not answered
let retrying = null;              // the timer
let unread = 0;
let atEnd = true;                 // whether the last message is in view
let renaming = false;
let typedAt = 0;

function randomToken() {          // crypto.randomUUID is for secure contexts only
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function remember(name, value) {  // storage can be forbidden: then nothing is remembered
  try { localStorage.setItem(name, value); } catch { /* so be it */ }
}

function recall(name) {
  try { return localStorage.getItem(name); } catch { return null; }
}

// --- the connection

function connect() {
  reconnecting = null;
  setState("waiting", "connecting");
  // The server does not look at the room here, but a balancer may, to keep a room together.
  const url = new URL(`/chat?room=${room}`, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const current = socket = new WebSocket(url);
  current.onopen = () => send({ type: "join", room, nick, session, seen });
  current.onmessage = (event) => receive(JSON.parse(event.data));
  current.onclose = (event) => disconnected(event);
}

function send(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function disconnected(event) {
  socket = null;
  if (joined) notice(event.reason ? `Disconnected: ${event.reason}` : "Disconnected");
  joined = false;
  inFlight = null;
  clearTimeout(retrying);
  retrying = null;
  if (wantsIn) reconnectLater();
  else setState("none", "not joined");
}

function reconnectLater() {
  // Twice as long each time, and somewhere in the upper half of that: not everybody at once.
  const delay = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** attempts) * (0.5 + Math.random() / 2);
  attempts += 1;
  setState("offline", "reconnecting");
  reconnecting = setTimeout(connect, delay);
}

function reconnectNow() {
  if (reconnecting === null) return;
  clearTimeout(reconnecting);
  connect();
}

function setState(name, words) {
  $("state").dataset.state = name;
  if ($("state").textContent !== words) $("state").textContent = words;
}

function showOnline() {
  setState(online ? "online" : "waiting", online ? "connected" : "connected, but waiting");
}

// --- what the server says

function receive(message) {
  handlers[message.type]?.(message);
}

const handlers = {
  welcome(welcome) {
    const first = $("chat").hidden;
    nick = welcome.nick;
    remember("nick", nick);
    rememberRoom();
    attempts = 0;
    joined = true;
    online = true;
    enterRoom();
    for (const message of welcome.messages) {
      seen = Math.max(seen, message.id);
      if (showMessage(message) && !first) countUnread(message);
    }
    seen = Math.max(seen, welcome.seen);
    if (!welcome.complete) notice("You may have missed some messages.");
    if (first) notice(`You are in #${room}. Share the address of this page to invite others.`);
    else notice("Connected again");
    setPeople(welcome.nicks);
    showOnline();
    pump();
  },
  message(message) {
    // Only now: what was accepted may have overtaken what others have said before it.
    seen = Math.max(seen, message.id);
    if (people.has(message.nick)) people.set(message.nick, 0);
    showTyping();
    if (showMessage(message)) countUnread(message);
  },
  accepted({ key, id }) {
    const said = queue.find((each) => each.key === key);
    if (inFlight === key) inFlight = null;
    if (said) showMessage({ id, nick, text: said.text, key });
    pump();
  },
  joined(event) {
    if (people.has(event.nick)) return;
    people.set(event.nick, 0);
    showPeople();
    notice(`${event.nick} came in`);
  },
  left(event) {
    if (!people.delete(event.nick)) return;
    showPeople();
    notice(`${event.nick} left`);
  },
  renamed(event) {
    people.delete(event.old);
    people.set(event.new, 0);
    if (event.old === nick) {
      nick = event.new;
      remember("nick", nick);
      $("nick").value = nick;
      renaming = false;
      say("");
    }
    showPeople();
    notice(`${event.old} is now ${event.new}`);
  },
  typing(event) {
    if (event.nick === nick) return;
    people.set(event.nick, Date.now());
    showTyping();
  },
  nicks(event) { setPeople(event.nicks); },
  missed() { notice("You may have missed some messages."); },
  status(event) {
    online = event.online;
    notice(online
      ? "The servers have found each other again."
      : "The servers have lost each other. What you write waits until they are back.");
    showOnline();
    pump();
  },
  error(error) {
    if (error.key !== null) refusedMessage(error);
    else if (!joined) refusedJoin(error);
    else if (renaming) say(error.text);
    renaming = false;
  },
};

function refusedMessage(error) {
  if (inFlight === error.key) inFlight = null;
  if (error.retry_after !== null) {
    clearTimeout(retrying);
    retrying = setTimeout(() => { retrying = null; pump(); }, error.retry_after * 1000);
    return;
  }
  const said = takeFromQueue(error.key);
  if (said) {
    said.item.classList.add("failed");
    said.item.querySelector(".note").textContent = `not sent: ${error.text}`;
  }
  pump();
}

function refusedJoin(error) {
  if (error.code === "nick_taken" && !$("chat").hidden) {
    nick = `${nick.slice(0, 29)} ${Math.floor(Math.random() * 90) + 10}`;
    send({ type: "join", room, nick, session, seen });
  } else if (error.code === "unavailable" || error.code.endsWith("_full")) {
    say(error.text);
    socket.close();
  } else {
    askForNick(error.text);
  }
}

// --- the queue

function enqueue(text) {
  const key = randomToken();
  const item = makeItem({ nick, text, time: Date.now() });
  item.classList.add("pending");
  const note = document.createElement("span");
  note.className = "note";
  note.textContent = "sending";
  item.append(note);
  addItem(item, null);
  scrollToEnd();
  queue.push({ key, text, item });
  pump();
}

function pump() {
  if (!joined || !online || inFlight !== null || retrying !== null || queue.length === 0) return;
  inFlight = queue[0].key;
  send({ type: "say", key: queue[0].key, text: queue[0].text });
}

function takeFromQueue(key) {
  if (inFlight === key) inFlight = null;
  const index = queue.findIndex((said) => said.key === key);
  return index < 0 ? null : queue.splice(index, 1)[0];
}

// --- the messages. Everything from outside is put in as text, never as HTML.

function showMessage({ id, nick: author, text, key }) {
  if (shown.has(key)) return false;
  takeFromQueue(key)?.item.remove();
  const wasAtEnd = isAtEnd();
  const item = makeItem({ nick: author, text, time: id });
  shown.set(key, item);
  addItem(item, id);
  if (wasAtEnd || author === nick) scrollToEnd();
  else $("latest").hidden = false;
  pump();
  return true;
}

function makeItem({ nick: author, text, time }) {
  const item = document.createElement("li");
  item.className = author === nick ? "message mine" : "message";
  item.dataset.nick = author;
  const head = document.createElement("span");
  head.className = "head";
  const name = document.createElement("span");
  name.className = "nick";
  name.textContent = author;
  name.style.setProperty("--hue", hueOf(author));
  const clock = document.createElement("time");
  const date = new Date(time);
  clock.dateTime = date.toISOString();
  clock.textContent = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  head.append(name, clock);
  const words = document.createElement("span");
  words.className = "words";
  words.textContent = text;
  item.append(head, words);
  return item;
}

function addItem(item, id) {
  // By id, and before what is not accepted yet.
  let next = null;
  if (id !== null) {
    item.dataset.id = id;
    for (let each = $("log").lastElementChild; each; each = each.previousElementSibling) {
      if (each.classList.contains("pending") || Number(each.dataset.id) > id) next = each;
      else if (each.dataset.id) break;
    }
  }
  $("log").insertBefore(item, next);
  for (const each of [item, next]) {
    const before = each?.previousElementSibling;
    each?.classList.toggle("same", Boolean(each.dataset.nick) && before?.dataset.nick === each.dataset.nick);
  }
}

function notice(words) {
  const wasAtEnd = isAtEnd();
  const item = document.createElement("li");
  item.className = "notice";
  item.textContent = words;
  addItem(item, null);
  if (wasAtEnd) scrollToEnd();
}

function hueOf(name) {
  let hue = 0;
  for (const character of name) hue = (hue * 31 + character.codePointAt(0)) % 360;
  return hue;
}

function isAtEnd() {
  const log = $("log");
  return log.scrollHeight - log.scrollTop - log.clientHeight < 60;
}

function scrollToEnd() {
  $("log").scrollTop = $("log").scrollHeight;
  atEnd = true;
  $("latest").hidden = true;
}

// --- the people, the rooms, the title

function setPeople(nicks) {
  people.clear();
  for (const each of nicks) people.set(each, 0);
  showPeople();
}

function showPeople() {
  const names = [...people.keys()].sort((one, other) => one.localeCompare(other));
  $("people").replaceChildren(...names.map((name) => {
    const item = document.createElement("li");
    item.textContent = name;
    if (name === nick) {
      const you = document.createElement("span");
      you.className = "you";
      you.textContent = " (you)";
      item.append(you);
    }
    return item;
  }));
  $("count").textContent = names.length;
  showTyping();
}

function showTyping() {
  const now = Date.now();
  const names = [...people].filter(([, time]) => now - time < TYPING_SHOWN).map(([name]) => name);
  const words = names.length > 2 ? "Several people are writing" : names.join(" and ")
    + (names.length === 1 ? " is writing" : " are writing");
  $("typing").textContent = names.length ? `${words} …` : "";
}

function rememberRoom() {
  const rooms = knownRooms().filter((each) => each !== room);
  remember("rooms", [room, ...rooms].slice(0, 8).join(" "));
  showRooms();
}

function knownRooms() {
  const rooms = (recall("rooms") ?? "").split(" ").filter((each) => /^[a-z0-9_-]{1,32}$/.test(each));
  return rooms.length ? rooms : ["lobby"];
}

function showRooms() {
  $("rooms").replaceChildren(...[...new Set([...knownRooms(), "lobby", room])].sort().map((name) => {
    const link = document.createElement("a");
    link.href = name === "lobby" ? "/" : `/rooms/${name}`;
    link.textContent = `#${name}`;
    if (name === room) link.setAttribute("aria-current", "page");
    const item = document.createElement("li");
    item.append(link);
    return item;
  }));
}

function countUnread(message) {
  if (message.nick === nick || hasAttention()) return;
  unread += 1;
  showTitle();
}

function showTitle() {
  document.title = `${unread ? `(${unread}) ` : ""}#${room}`;
}

function hasAttention() {
  return document.visibilityState === "visible" && document.hasFocus();
}

function attend() {
  if (!hasAttention()) return;
  unread = 0;
  showTitle();
}

function say(words) {
  $($("chat").hidden ? "join-words" : "alert").textContent = words;
}

// --- what the user does

function askForNick(words) {
  wantsIn = false;
  $("join").hidden = false;
  $("chat").hidden = $("panel").hidden = $("panel-button").hidden = true;
  say(words);
  $("join-nick").focus();
  $("join-nick").select();
}

function enterRoom() {
  if (!$("chat").hidden) return;
  $("join").hidden = true;
  $("chat").hidden = $("panel").hidden = $("panel-button").hidden = false;
  $("nick").value = nick;
  $("text").focus();
}

$("join").addEventListener("submit", (event) => {
  event.preventDefault();
  nick = $("join-nick").value;
  wantsIn = true;
  if (joined) return;
  if (socket?.readyState === WebSocket.OPEN) send({ type: "join", room, nick, session, seen });
  else if (socket === null) { clearTimeout(reconnecting); connect(); }
});

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value;
  if (text.trim() === "") return;
  $("text").value = "";
  typedAt = 0;
  say("");
  enqueue(text);
  reconnectNow();
  $("text").focus();
});

$("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
});

$("text").addEventListener("input", () => {
  if (!joined || $("text").value === "" || Date.now() - typedAt < TYPING_EVERY) return;
  typedAt = Date.now();
  send({ type: "typing" });
});

$("rename").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("nick").value === nick) return;
  renaming = true;
  send({ type: "rename", nick: $("nick").value });
});

$("go").addEventListener("submit", (event) => {
  event.preventDefault();
  location.assign(`/rooms/${$("other").value}`);
});

function openPanel(open) {
  $("panel").classList.toggle("open", open);
  $("panel-button").setAttribute("aria-expanded", String(open));
}

$("panel-button").addEventListener("click", () => {
  openPanel(!$("panel").classList.contains("open"));
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !$("panel").classList.contains("open")) return;
  openPanel(false);
  $("panel-button").focus();
});

$("latest").addEventListener("click", () => { scrollToEnd(); $("text").focus(); });
function sizeOfLog() {
  return `${$("log").clientWidth} ${$("log").clientHeight}`;
}

let size = sizeOfLog();

$("log").addEventListener("scroll", () => {
  if (size !== sizeOfLog()) return;  // the user has resized the window, and not scrolled
  atEnd = isAtEnd();
  if (atEnd) $("latest").hidden = true;
});

new ResizeObserver(() => {
  size = sizeOfLog();
  if (atEnd) scrollToEnd();
}).observe($("log"));
document.addEventListener("visibilitychange", attend);
window.addEventListener("focus", attend);
window.addEventListener("online", reconnectNow);
window.addEventListener("beforeunload", (event) => { if (queue.length) event.preventDefault(); });
setInterval(showTyping, 1000);

$("room").textContent = room;
showTitle();
showRooms();
$("join-nick").value = recall("nick") ?? "";
