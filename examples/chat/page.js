"use strict";

// The page of the chat. What the messages mean is said in messages.py, beside this file.
//
// What the user says goes into a queue, under a random key, and stays there until the server has
// accepted it, or refused it for good; a new nickname waits there too. The first in the queue is sent,
// and sent again after every reconnect; the server takes the same key for the same message. So
// everything is said once, and in order.
//
// A connection can be dead without the browser knowing. But everything has an answer, and to a ping
// there is a pong: if nothing comes for too long, the page connects anew.

const $ = (id) => document.getElementById(id);

const room = /^\/rooms\/([a-z0-9_-]{1,32})$/.exec(location.pathname)?.[1] ?? "lobby";
const session = randomToken();
const queue = [];                 // what the server has not answered for good: {message, item}
const shown = new Set();          // keys of the messages in the log
const people = new Map();         // when they last typed, by nickname; 0: they do not

const FIRST_DELAY = 500;          // milliseconds until the first attempt to reconnect
const LONGEST_DELAY = 15_000;
const ANSWER_WITHIN = 10_000;     // then the connection is dead
const LONGEST_SILENCE = 30_000;   // then an answer is asked for
const LOG_LENGTH = 300;           // messages and notices that are kept
const LOG_EXCESS = 50;            // beyond that, the oldest go all at once
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
let answering = null;             // the timer of the answer that is waited for
let heard = 0;                    // when the server was heard last
let inFlight = null;              // the first of the queue, if it was sent and not answered
let retrying = null;              // the timer
let unread = 0;
let atEnd = true;                 // whether the last message is in view
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
  socket = new WebSocket(url);
  socket.onopen = () => send({ type: "join", room, nick, session, seen });
  socket.onmessage = (event) => receive(JSON.parse(event.data));
  socket.onclose = (event) => { clearAlert(); disconnected(event.reason); };
  expectAnswer();
}

function send(message) {
  if (socket?.readyState !== WebSocket.OPEN) return;
  socket.send(JSON.stringify(message));
  expectAnswer();
}

function expectAnswer() {
  answering ??= setTimeout(() => drop("the server does not answer"), ANSWER_WITHIN);
}

function checkConnection() {
  if (socket === null) reconnectNow();
  else if (joined && answering === null) send({ type: "ping" });
}

function drop(reason) {           // without waiting until the other side has closed it too
  socket.onopen = socket.onmessage = socket.onclose = null;
  socket.close();
  disconnected(reason);
}

function disconnected(reason) {
  if (joined) notice(reason ? `Disconnected: ${reason}` : "Disconnected");
  socket = null;
  joined = false;
  inFlight = null;
  clearTimeout(answering);
  clearTimeout(retrying);
  answering = retrying = null;
  for (const each of people.keys()) people.set(each, 0);
  showTyping();
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
  setText($("state"), words);
}

function showOnline() {
  setState(online ? "online" : "waiting", online ? "connected" : "connected, but waiting");
}

// --- what the server says

function receive(message) {
  heard = Date.now();             // that is all that a pong is for
  clearTimeout(answering);
  answering = null;
  handlers[message.type]?.(message);
  if (joined) showOnline();
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
    clearAlert();
    for (const message of welcome.messages) {
      seen = Math.max(seen, message.id);
      if (showMessage(message) && !first) countUnread(message);
    }
    seen = Math.max(seen, welcome.seen);
    enterRoom();                  // only now: nobody wants to have all of that read out
    if (!welcome.complete) notice("You may have missed some messages.");
    if (first) notice(`You are in #${room}. Share the address of this page to invite others.`);
    else notice("Connected again");
    setPeople(welcome.nicks);
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
    const said = findInQueue(key);
    if (said) showMessage({ id, nick, text: said.message.text, key });
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
      clearAlert();
      if (inFlight?.message.type === "rename") takeFromQueue(inFlight);
      pump();
    }
    showPeople();
    if (event.old !== event.new) notice(`${event.old} is now ${event.new}`);
  },
  typing(event) {
    if (event.nick === nick || !people.has(event.nick)) return;
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
    pump();
  },
  error(error) {
    if (!joined) refusedJoin(error);
    else if (inFlight && (inFlight.message.key ?? null) === error.key) refused(error);
  },
};

function refused(error) {
  if (error.retry_after === null) {
    const { message, item } = takeFromQueue(inFlight);
    if (item) showFailed(item, message, error.text);
    else say(error.text);
    pump();
  } else {
    inFlight = null;
    retrying = setTimeout(() => { retrying = null; pump(); }, error.retry_after * 1000);
  }
}

function refusedJoin(error) {
  if (error.code === "nick_taken" && !$("chat").hidden) {
    const start = Array.from(nick).slice(0, 29).join("").replace(/\u200d$/, "");  // not half an emoji
    const other = `${start} ${Math.floor(Math.random() * 90) + 10}`;
    notice(`Somebody else is ${nick} now: you come back as ${other}`);
    nick = $("nick").value = other;
    send({ type: "join", room, nick, session, seen });
  } else if (error.code === "unavailable" || error.code.endsWith("_full")) {
    drop();
    say(error.text);
  } else {
    askForNick(error.text);
  }
}

// --- the queue

function enqueue(message, item = null) {
  queue.push({ message, item });
  pump();
}

function pump() {
  if (!joined || !online || inFlight !== null || retrying !== null || queue.length === 0) return;
  inFlight = queue[0];
  send(inFlight.message);
}

function findInQueue(key) {
  return queue.find((each) => each.message.key === key);
}

function takeFromQueue(entry) {
  if (inFlight === entry) inFlight = null;
  queue.splice(queue.indexOf(entry), 1);
  return entry;
}

// --- the messages. Everything from outside is put in as text, never as HTML.

function sayInRoom(message) {
  const item = makeItem(message.text);
  item.classList.add("mine", "pending");
  fillItem(item, nick, Date.now());
  addItem(item, null);
  scrollToEnd();
  enqueue(message, item);
}

function showMessage({ id, nick: author, text, key }) {
  if (shown.has(key)) return false;
  shown.add(key);
  const said = findInQueue(key);
  const item = said ? takeFromQueue(said).item : makeItem(text);
  item.dataset.key = key;
  item.classList.toggle("mine", author === nick);
  fillItem(item, author, id);
  addItem(item, id);
  item.classList.remove("pending");
  if (!said && !isAtEnd()) $("latest").hidden = false;
  pump();
  return true;
}

function showFailed(item, message, words) {
  const wasAtEnd = isAtEnd();
  const note = document.createElement("span");
  const addButton = (label, act) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.addEventListener("click", () => { removeItem(item); act(); $("text").focus(); });
    note.append(" ", button);
  };
  note.className = "note";
  note.textContent = `not sent: ${words}`;
  addButton("Send again", () => sayInRoom(message));
  addButton("Discard", () => {});
  item.append(note);
  item.classList.replace("pending", "failed");
  if (wasAtEnd) scrollToEnd();
}

function makeItem(text) {
  const item = document.createElement("li");
  const head = document.createElement("span");
  const name = document.createElement("span");
  const words = document.createElement("span");
  item.className = "message";
  head.className = "head";
  name.className = "nick";
  words.className = "words";
  words.textContent = text;
  head.append(name, document.createElement("time"));
  item.append(head, words);
  return item;
}

function fillItem(item, author, time) {
  const date = new Date(time);
  const name = item.querySelector(".nick");
  const clock = item.querySelector("time");
  item.dataset.nick = author;
  name.style.setProperty("--hue", hueOf(author));
  clock.dateTime = date.toISOString();
  setText(name, author);
  setText(clock, date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
}

function setText(element, text) { // a screen reader may read out what is set, changed or not
  if (element.textContent !== text) element.textContent = text;
}

function addItem(item, id) {
  const wasAtEnd = isAtEnd();
  if (id === null) $("log").append(item);
  else placeItem(item, id);
  for (const each of [item, item.nextElementSibling]) groupItem(each);
  trimLog();
  if (wasAtEnd) scrollToEnd();
}

function placeItem(item, id) {
  // By id, and before what is not accepted yet. What has its place already is not put there again,
  // or a screen reader would read it again.
  let next = null;
  for (let each = $("log").lastElementChild; each; each = each.previousElementSibling) {
    if (Number(each.dataset.id) < id) break;
    if (each.dataset.id || each.classList.contains("pending")) next = each;
  }
  item.dataset.id = id;
  if (next !== item) $("log").insertBefore(item, next);
}

function removeItem(item) {
  const next = item.nextElementSibling;
  item.remove();
  groupItem(next);
}

function groupItem(item) {        // one head is enough for what somebody says in a row
  const before = item?.previousElementSibling;
  item?.classList.toggle("same", Boolean(item.dataset.nick) && before?.dataset.nick === item.dataset.nick);
}

function trimLog() {
  const log = $("log");
  const excess = log.childElementCount - LOG_LENGTH;
  if (excess <= LOG_EXCESS) return;
  const place = log.lastElementChild.getBoundingClientRect().top;
  for (const each of [...log.querySelectorAll("li:not(.pending, .failed)")].slice(0, excess)) {
    shown.delete(each.dataset.key);
    removeItem(each);
  }
  // What is in view stays there.
  log.scrollTop += log.lastElementChild.getBoundingClientRect().top - place;
}

function notice(words) {
  const item = document.createElement("li");
  item.className = "notice";
  item.textContent = words;
  addItem(item, null);
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
  setText($($("chat").hidden ? "join-words" : "alert"), words);
}

function clearAlert() {
  setText($("alert"), "");
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
  scrollToEnd();
  $("text").focus();
}

$("join").addEventListener("submit", (event) => {
  event.preventDefault();
  nick = $("join-nick").value;
  wantsIn = true;
  say("");
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
  if (joined) clearAlert();
  sayInRoom({ type: "say", key: randomToken(), text });
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
  const wish = $("nick").value.trim();
  clearAlert();
  if (wish === nick && queue.every(({ message }) => message.type !== "rename")) return;
  closePanel();                   // where the screen is narrow, it is above the answer
  enqueue({ type: "rename", nick: wish });
  if (!joined || !online) notice(`You will be ${wish} when you are connected again.`);
  reconnectNow();
});

$("nick").addEventListener("input", clearAlert);

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

function closePanel() {
  if (!$("panel").classList.contains("open")) return;
  openPanel(false);
  $("panel-button").focus();
}

document.addEventListener("keydown", (event) => { if (event.key === "Escape") closePanel(); });

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

document.addEventListener("visibilitychange", () => {
  attend();
  if (document.visibilityState === "visible") checkConnection();
});
window.addEventListener("focus", attend);
window.addEventListener("online", checkConnection);
window.addEventListener("offline", () => {
  if (!joined) return;
  setState("waiting", "no network?");
  checkConnection();              // the server may be on this machine
});
window.addEventListener("beforeunload", (event) => { if (queue.length) event.preventDefault(); });
setInterval(() => {
  showTyping();
  if (joined && Date.now() - heard > LONGEST_SILENCE) checkConnection();
}, 1000);

$("room").textContent = room;
showTitle();
showRooms();
$("join-nick").value = recall("nick") ?? "";
