// The page of a lab's panel. The parts that can have the keyboard's focus are made once and kept; everything from
// the cluster is put in as text.

const WORDS = { pass: "passed", fail: "not yet", error: "could not tell", skipped: "not tried" };
const MARKS = { pass: "✓", fail: "✗", error: "!", skipped: "-", "": "○" };

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function button(text, act) {
  const element = make("button", "kailab-button", text);
  element.type = "button";
  element.addEventListener("click", act);
  return element;
}

const number = (value) => String(Math.round(value * 100) / 100);

function taskState(task) {
  const outcomes = task.checks.map((check) => check.outcome);
  for (const state of ["fail", "error", "skipped", ""]) if (outcomes.includes(state)) return state;
  return "pass";
}

function details(check) {
  const list = make("dl", "kailab-details");
  const row = (label, text, kind) => {
    if (!text) return;
    list.append(make("dt", "", label));
    const value = make("dd", kind || "");
    if (kind === "kailab-command") value.append(make("code", "", text));
    else value.textContent = text;
    list.append(value);
  };
  if (check.outcome === "fail") {
    row("expected", check.expected);
    row("observed", check.observed);
    check.evidence.forEach((line, index) => row(index ? "\u00a0" : "evidence", line, "kailab-evidence"));
    row("look with", check.look_with, "kailab-command");
  } else if (check.outcome === "error") {
    row("why", check.observed);
    row("\u00a0", "Not your fault, and it costs no point.");
  } else if (check.outcome === "skipped") row("\u00a0", check.observed);
  return list.children.length ? list : null;
}

function checkPart(check) {
  const part = make("div", `kailab-check kailab-${check.outcome || "open"}`);
  const line = make("div", "kailab-line");
  const mark = make("span", "kailab-mark", check.running ? "…" : MARKS[check.outcome]);
  mark.setAttribute("aria-hidden", "true");
  const word = check.running ? check.doing || "checking" : WORDS[check.outcome] || "";
  line.append(mark, make("span", "kailab-title", check.title), make("span", "kailab-word", word));
  const earned = check.outcome ? `${number(check.points)}/${number(check.max_points)}` : number(check.max_points);
  line.append(make("span", "kailab-points", earned));
  part.append(line);
  const more = details(check);
  if (more) part.append(more);
  return part;
}

function taskPart(task, index, send) {
  const part = make("section", "kailab-task");
  const head = make("div", "kailab-head");
  const title = make("h4", "kailab-task-title");
  const check = button(`Check task ${index + 1}`, () => send({ do: "check", task: task.id }));
  const hint = button("Hint", () => send({ do: "hint", task: task.id }));
  head.append(title, check, hint);
  const checks = make("div", "kailab-checks");
  const hints = make("div", "kailab-hints");
  hints.setAttribute("aria-live", "polite");
  part.append(head, checks, hints);
  part.setAttribute("aria-label", `Task ${index + 1}`);
  let known = "";
  let shownHints = 0;
  const update = (now, busy) => {
    const state = taskState(now);
    title.textContent = `${MARKS[state]} ${index + 1}. ${now.title}`;
    title.dataset.state = state;
    check.disabled = busy;
    hint.disabled = busy || now.hints_left === 0;
    hint.textContent = now.hints_left ? `Hint (${now.hints_left} left)` : "No more hints";
    hint.setAttribute("aria-label", `${hint.textContent}, task ${index + 1}`);
    const picture = JSON.stringify(now.checks);
    if (picture !== known) checks.replaceChildren(...now.checks.map(checkPart));
    known = picture;
    for (; shownHints < now.hints.length; shownHints++) {
      const box = make("div", "kailab-hint");
      box.innerHTML = now.hints[shownHints]; // the course's own Markdown, rendered without raw HTML
      hints.append(box);
    }
    if (now.hints.length < shownHints) {
      hints.replaceChildren();
      shownHints = 0;
    }
  };
  return { part, update };
}

function render({ model, el }) {
  const send = (message) => model.send(message);
  const first = model.get("state");
  const root = make("div", "kailab-panel");
  root.setAttribute("role", "region");
  root.setAttribute("aria-label", `Lab ${first.lab}: ${first.title}`);
  const head = make("div", "kailab-head");
  const title = make("h3", "kailab-lab", `Lab ${first.lab}: ${first.title}`);
  const score = make("span", "kailab-score");
  const meter = make("progress", "kailab-meter");
  meter.setAttribute("aria-label", "points");
  head.append(title, score);
  const bar = make("div", "kailab-bar");
  const all = button("Check everything", () => send({ do: "check", task: "" }));
  all.classList.add("kailab-main");
  const reset = button("Reset the lab", () => ask(true));
  const solution = button("Show a solution", () => send({ do: "solution" }));
  bar.append(all, reset, solution);
  const sure = make("div", "kailab-sure");
  sure.append(
    make("span", "", `Delete everything in namespace ${first.namespace} and begin anew? Your files are kept.`),
    button("Yes, reset", () => { ask(false); send({ do: "reset" }); }),
    button("No, keep it", () => ask(false)),
  );
  const ask = (wanted) => {
    sure.hidden = !wanted;
    (wanted ? sure.querySelector("button") : reset).focus();
  };
  sure.hidden = true;
  const status = make("p", "kailab-status");
  status.setAttribute("role", "status");
  const message = make("div", "kailab-message");
  message.setAttribute("role", "alert");
  const tasks = first.tasks.map((task, index) => taskPart(task, index, send));
  const answer = make("div", "kailab-solution");
  root.append(head, meter, bar, sure, status, message, ...tasks.map((task) => task.part), answer);
  el.append(root);

  let since = 0;
  let shown = "";
  const tell = () => {
    const state = model.get("state");
    const checks = state.tasks.flatMap((task) => task.checks).filter(
      (check, _, __) => !state.wanted || state.tasks.find((task) => task.id === state.wanted).checks.includes(check));
    const done = checks.filter((check) => check.outcome).length;
    if (state.busy) {
      since ||= Date.now() - state.seconds * 1000;
      const text = `${done} of ${checks.length} checks done${state.doing ? `: ${state.doing}` : ""}`;
      status.textContent = `${text}, ${Math.round((Date.now() - since) / 1000)} s`;
    } else {
      since = 0;
      const failed = state.tasks.flatMap((task) => task.checks).filter((check) => check.outcome === "fail").length;
      const any = state.tasks.some((task) => task.checks.some((check) => check.outcome));
      if (!any) status.textContent = "Not checked yet.";
      else if (state.points === state.max_points) status.textContent = "Everything holds. Well done!";
      else status.textContent = failed ? `${failed} not yet right. Begin with the first.` : "Checked.";
    }
  };
  const update = () => {
    const state = model.get("state");
    score.textContent = `${number(state.points)} of ${number(state.max_points)} points`;
    meter.max = state.max_points;
    meter.value = state.points;
    all.disabled = reset.disabled = state.busy;
    all.textContent = state.busy ? "Checking…" : "Check everything";
    solution.disabled = state.busy || !state.passed;
    solution.title = state.passed ? "" : "opens with full marks";
    state.tasks.forEach((task, index) => tasks[index].update(task, state.busy));
    const lines = [state.message.text, state.message.why, state.message.mend && `Next: ${state.message.mend}`];
    message.replaceChildren(...lines.filter(Boolean).map((line) => make("p", "", line)));
    const picture = JSON.stringify(state.solution);
    if (picture !== shown) {
      answer.replaceChildren(...state.solution.flatMap((file) => [make("h4", "", file.name), make("pre", "", file.text)]));
      shown = picture;
    }
    tell();
  };
  const clock = setInterval(() => model.get("state").busy && tell(), 1000);
  model.on("change:state", update);
  update();
  return () => {
    clearInterval(clock);
    model.off("change:state", update);
  };
}

export default { render };
