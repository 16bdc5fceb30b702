// The page of the live view. Everything is made once, kept by its name, and changed only where it differs: a reader's
// place in it stays. All that comes from the cluster is put in as text.

const MARKS = { ready: "●", starting: "◐", waiting: "◇", failing: "▲", leaving: "◌" };
const SLOTS = { free: "□", held: "■", claimed: "◆", faulty: "✗" };
const LEGEND = [
  ["ready", MARKS.ready, "Ready"], ["starting", MARKS.starting, "starting or not Ready"],
  ["waiting", MARKS.waiting, "no node yet"], ["failing", MARKS.failing, "failing"],
  ["leaving", MARKS.leaving, "leaving"], ["free", SLOTS.free, "GPU free"], ["held", SLOTS.held, "GPU held by pods"],
  ["claimed", SLOTS.claimed, "GPU held through a claim"], ["faulty", SLOTS.faulty, "GPU faulty"],
];
const HERE_SECONDS = 10; // the kernel stops watching for a page after five minutes without a word
const SILENCE_SECONDS = 15; // the kernel sends a pulse every 5 s

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function list(className, label) {
  const made = make("ul", className);
  made.setAttribute("role", "list"); // Safari forgets that a list without bullets is one
  if (label) made.setAttribute("aria-label", label);
  return made;
}

function mark(text) {
  const made = make("span", "kailab-view-mark", text);
  made.setAttribute("aria-hidden", "true");
  return made;
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
  element.hidden = !text;
}

// One part for each item, in order; `build` makes {element, update} for a name that is new.
function keep(parts, parent, items, build) {
  const names = new Set(items.map((item) => item.name));
  for (const [name, part] of parts) {
    if (names.has(name)) continue;
    part.element.remove();
    parts.delete(name);
  }
  items.forEach((item, index) => {
    if (!parts.has(item.name)) parts.set(item.name, build(item));
    const { element, update } = parts.get(item.name);
    update(item);
    if (parent.children[index] !== element) parent.insertBefore(element, parent.children[index] || null);
  });
  parent.hidden = !items.length;
}

function podPart() {
  const element = make("li", "kailab-view-pod");
  const shape = mark("");
  const [name, word, version, why] = ["name", "word", "version", "why"].map((kind) => make("span", `kailab-view-${kind}`));
  element.append(shape, " ", name, " ", word, " ", version, " ", why);
  const update = (pod) => {
    element.dataset.state = pod.state;
    write(shape, MARKS[pod.state]);
    write(name, pod.name);
    write(word, pod.word);
    write(version, pod.version);
    write(why, pod.why);
  };
  return { element, update };
}

function slotPart() {
  const element = make("li", "kailab-view-slot");
  const shape = mark("");
  const [name, word, turns, use, memory] = ["name", "word", "turns", "use", "memory"].map((kind) => make("span", `kailab-view-${kind}`));
  element.append(shape, " ", name, " ", word, " ", turns, " ", use, " ", memory);
  const update = (slot) => {
    element.dataset.state = slot.state;
    element.style.setProperty("--use", `${slot.use}%`);
    write(shape, SLOTS[slot.state]);
    write(name, slot.name);
    const held = slot.state === "faulty" ? "; held by " : " ";
    write(word, slot.who.length ? `${slot.word}${held}${slot.who.join(", ")}` : slot.word);
    write(turns, slot.turns);
    write(use, `${slot.use}% busy`);
    write(memory, slot.memory);
  };
  return { element, update };
}

const plural = (count, one) => `${count} ${one}${count === 1 ? "" : "s"}`;

function leftOut(group, namespace) {
  const texts = [];
  if (group.rest) texts.push(`and ${group.rest}`);
  if (group.finished) texts.push(`${group.finished} finished`);
  if (group.others) texts.push(`${plural(group.others, "pod")} of other namespaces`);
  if (!group.pods.length) texts.unshift(`no pods of ${namespace}`);
  return texts.join("; ");
}

function nodePart(first, namespace) {
  const element = make("li", "kailab-view-node");
  const name = make("h4", "", first.name);
  const [place, state, rest, models, notes] = ["place", "state", "rest", "models", "notes"].map((kind) => make("p", `kailab-view-${kind}`));
  const pods = list("kailab-view-pods", `pods on ${first.name}`);
  const slots = list("kailab-view-slots", `GPUs of ${first.name}`);
  element.append(name, place, state, pods, rest, models, slots, notes);
  const podParts = new Map();
  const slotParts = new Map();
  const update = (node) => {
    element.dataset.health = node.health;
    write(place, [node.role, node.region && `region ${node.region}`, node.zone && `zone ${node.zone}`].filter(Boolean).join(", "));
    write(state, `${node.health === "well" ? "✓" : "!"} ${node.state.join(", ")}`);
    keep(podParts, pods, node.pods, podPart);
    write(rest, leftOut(node, namespace()));
    write(models, node.models && `GPUs: ${node.models}`);
    keep(slotParts, slots, node.gpus, slotPart);
    write(notes, node.gpu_notes.join("; "));
  };
  return { element, update };
}

function zonePart() {
  const element = make("tr");
  const zone = make("th");
  zone.scope = "row";
  const cells = Array.from({ length: 6 }, () => make("td"));
  element.append(zone, ...cells);
  const update = (line) => {
    zone.textContent = line.zone || "no zone";
    const closed = line.closed ? `, ${line.closed} of them not Ready or cordoned` : "";
    // One number is of GPUs; several tell GPUs and their slices apart by the name that pods ask for.
    const counts = (what) => line.gpus.map((one) => (line.gpus.length === 1 && one.name === "gpu" ? one[what] : `${one[what]} ${one.name}`)).join(", ");
    [line.fleet, line.model, `${line.nodes}${closed}`, counts("used"), counts("total"), line.pods]
      .forEach((value, index) => { cells[index].textContent = value; });
  };
  return { element, update };
}

function zoneTable() {
  const table = make("table", "kailab-view-zones");
  table.append(make("caption", "", "Simulated nodes (KWOK): the scheduler's work is real, nothing runs there"));
  const head = make("tr");
  const titles = ["zone", "fleet", "model", "nodes", "GPUs in use", "GPUs in all", ""].map((text) => make("th", "", text));
  titles.forEach((title) => { title.scope = "col"; });
  head.append(...titles);
  const body = make("tbody");
  const top = make("thead");
  top.append(head);
  table.append(top, body);
  const parts = new Map();
  const update = (lines, namespace) => {
    titles[6].textContent = `pods of ${namespace}`;
    keep(parts, body, lines.map((line) => ({ ...line, name: [line.zone, line.fleet, line.model].join("/") })), zonePart);
    table.hidden = !lines.length;
  };
  return { table, update };
}

function legend() {
  const made = list("kailab-view-legend", "what the shapes mean");
  for (const [state, shape, text] of LEGEND) {
    const item = make("li");
    item.dataset.state = state;
    item.append(mark(shape), ` ${text}`);
    made.append(item);
  }
  return made;
}

function frame() {
  const root = make("div", "kailab-view");
  root.setAttribute("role", "region");
  root.setAttribute("aria-label", "The cluster, live");
  const head = make("div", "kailab-view-head");
  const title = make("h3", "", "The cluster");
  const pause = make("button", "kailab-view-button", "Pause");
  pause.type = "button";
  head.append(title, pause);
  const status = make("p", "kailab-view-status", "Looking for the cluster.");
  const problem = make("div", "kailab-view-problem");
  problem.setAttribute("role", "alert");
  const log = make("ol", "kailab-view-log");
  log.setAttribute("role", "log");
  log.setAttribute("aria-live", "polite");
  log.setAttribute("aria-label", "what has changed");
  const waiting = make("div", "kailab-view-waiting");
  const waitingPods = list("kailab-view-pods", "pods without a node");
  const waitingRest = make("p", "kailab-view-rest");
  waiting.append(make("h4", "", "Without a node"), waitingPods, waitingRest);
  const nodes = list("kailab-view-nodes", "nodes");
  const zones = zoneTable();
  const note = make("p", "kailab-view-note", "The GPUs are simulated; who holds them is decided by the real scheduler and kubelets.");
  const foot = make("div", "kailab-view-foot");
  foot.append(legend(), note);
  root.append(head, status, problem, waiting, nodes, zones.table, log, foot);
  return { root, title, pause, status, problem, log, waiting, waitingPods, waitingRest, nodes, zones, foot };
}

function render({ model, el }) {
  const page = `${Date.now()}-${Math.random()}`;
  const on = frame();
  el.append(on.root);
  const letLettersGo = keepLetters(on.root);
  let paused = false;
  let sent = 0; // when the kernel last heard that this page is here
  let heard = Date.now();
  let shownAt = 0; // since when the kernel should be telling news
  let lastSaid = 0;
  const nodeParts = new Map();
  const waitingParts = new Map();
  const namespace = () => model.get("state").scene.namespace || "";

  const tell = (what) => {
    try {
      model.send({ do: what, page });
      return true;
    } catch {
      return false; // the kernel is gone
    }
  };
  const isShown = () => !paused && document.visibilityState === "visible" && el.isConnected;
  const here = () => {
    const now = Date.now();
    if (!isShown()) {
      if (sent) tell("gone");
      sent = 0;
    } else if (now - sent >= HERE_SECONDS * 1000) {
      if (!sent) shownAt = now;
      tell("here");
      sent = now;
    }
    sayStatus();
  };

  const say = (lines) => {
    for (const line of lines.filter((line) => line.number > lastSaid)) {
      const item = make("li");
      item.append(make("span", "kailab-view-time", line.at), ` ${line.text}`);
      on.log.append(item);
      lastSaid = line.number;
    }
    while (on.log.children.length > 6) on.log.firstChild.remove();
  };
  const sayStatus = () => {
    const state = model.get("state");
    const silence = Math.round((Date.now() - Math.max(heard, shownAt)) / 1000);
    const isStale = !paused && sent > 0 && silence >= SILENCE_SECONDS;
    on.root.dataset.phase = paused ? "paused" : isStale ? "stale" : state.phase;
    if (paused) write(on.status, `Paused. This is the cluster as it was at ${state.at || "the start"}.`);
    else if (isStale) write(on.status, "No news from this notebook's kernel: it is busy, or it was restarted. After a restart, run this cell again.");
    else if (state.phase === "live") write(on.status, `Following the cluster. Last change at ${state.at}.`);
    else if (state.phase === "lost" && state.at) write(on.status, `This is the cluster as it was at ${state.at}. Trying again every few seconds.`);
    else write(on.status, state.phase === "lost" ? "Trying again every few seconds." : "Looking for the cluster.");
  };
  const sayProblem = (problem) => {
    const lines = [problem.text, problem.why, problem.mend && `Next: ${problem.mend}`].filter(Boolean);
    if (on.problem.dataset.shown === lines.join("\n")) return;
    on.problem.dataset.shown = lines.join("\n");
    on.problem.replaceChildren(...lines.map((line) => make("p", "", line)));
  };
  const update = () => {
    heard = Date.now();
    if (paused) return;
    const { scene, problem, said } = model.get("state");
    sayProblem(problem);
    const isEmpty = !scene.nodes;
    on.foot.hidden = on.log.hidden = isEmpty;
    if (!isEmpty) {
      write(on.title, `The cluster, and the pods of namespace ${scene.namespace}`);
      keep(waitingParts, on.waitingPods, scene.waiting.pods, podPart);
      write(on.waitingRest, scene.waiting.rest && `and ${scene.waiting.rest}`);
      on.waiting.hidden = !scene.waiting.pods.length;
      keep(nodeParts, on.nodes, scene.nodes, (node) => nodePart(node, namespace));
      on.zones.update(scene.zones, scene.namespace);
      say(said);
    } else on.waiting.hidden = on.nodes.hidden = on.zones.table.hidden = true;
    sayStatus();
  };
  const pulse = () => { heard = Date.now(); };

  on.pause.addEventListener("click", () => {
    paused = !paused;
    on.pause.textContent = paused ? "Go on" : "Pause";
    here();
    if (!paused) update();
  });
  const timer = setInterval(here, 3000);
  document.addEventListener("visibilitychange", here);
  model.on("change:state", update);
  model.on("msg:custom", pulse);
  update();
  setTimeout(here, 0); // only then is `el` in the page
  return () => {
    letLettersGo();
    clearInterval(timer);
    document.removeEventListener("visibilitychange", here);
    model.off("change:state", update);
    model.off("msg:custom", pulse);
    if (sent) tell("gone");
  };
}

export default { render };
