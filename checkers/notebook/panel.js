// The page of a lab's panel. The parts that can have the keyboard's focus are made once and kept.

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
  element.addEventListener("click", () => element.getAttribute("aria-disabled") !== "true" && act());
  return element;
}

// A button that must wait keeps the keyboard's focus, which `disabled` would throw away.
function allow(element, may) {
  element.setAttribute("aria-disabled", String(!may));
}

const number = (value) => String(Math.round(value * 100) / 100);

function taskState(task) {
  const outcomes = task.checks.map((check) => check.outcome);
  for (const state of ["fail", "error", "skipped", ""]) if (outcomes.includes(state)) return state;
  return "pass";
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
    allow(check, !busy);
    allow(hint, !busy && now.hints_left > 0);
    hint.textContent = now.hints_left ? `Hint (${now.hints_left} left)` : "No more hints";
    hint.setAttribute("aria-label", `${hint.textContent}, task ${index + 1}`);
    const picture = now.checks.map((check) => check.html).join(""); // as in the report, and escaped there
    if (picture !== known) checks.innerHTML = picture;
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
  const send = (message) => {
    try {
      model.send(message);
    } catch { // the kernel is gone
      isDead = true;
      tell();
    }
  };
  let isDead = false;
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
  let asked = false; // for the solution, on this page: then it is shown as soon as it is there
  const all = button("Check everything", () => send({ do: "check", task: "" }));
  all.classList.add("kailab-main");
  const reset = button("Reset the lab", () => ask(true));
  const solution = button("Show a solution", () => {
    asked = answer.hidden;
    if (asked) send({ do: "solution" });
    else openSolution();
  });
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
  const news = make("span");
  const clock = make("span");
  clock.setAttribute("aria-hidden", "true"); // nobody wants every second read out
  status.append(news, clock);
  const message = make("div", "kailab-message");
  message.setAttribute("role", "alert");
  const tasks = first.tasks.map((task, index) => taskPart(task, index, send));
  const answer = make("details", "kailab-solution");
  const summary = make("summary", "", "One right solution");
  const files = make("div");
  answer.hidden = true;
  answer.append(summary, files);
  const openSolution = () => {
    answer.open = true;
    summary.focus();
  };
  root.append(head, meter, bar, sure, status, message, answer, ...tasks.map((task) => task.part));
  el.append(root);
  const letLettersGo = keepLetters(root);

  let since = 0;
  let shown = "";
  const say = (text) => {
    if (news.textContent !== text) news.textContent = text;
  };
  const tell = () => {
    if (isDead) {
      say("This notebook's kernel was restarted. Run this cell again; your points and files are kept.");
      clock.textContent = "";
      return;
    }
    const state = model.get("state");
    const checks = state.tasks.flatMap((task) => task.checks).filter(
      (check) => !state.wanted || state.tasks.find((task) => task.id === state.wanted).checks.includes(check));
    const done = checks.filter((check) => check.outcome).length;
    if (state.busy) {
      since ||= Date.now() - state.seconds * 1000;
      say(`${done} of ${checks.length} checks done${state.doing ? `: ${state.doing}` : ""}`);
      clock.textContent = `, ${Math.round((Date.now() - since) / 1000)} s`;
    } else {
      since = 0;
      clock.textContent = "";
      const failed = state.tasks.flatMap((task) => task.checks).filter((check) => check.outcome === "fail").length;
      const any = state.tasks.some((task) => task.checks.some((check) => check.outcome));
      if (!any) say("Not checked yet.");
      else if (state.points === state.max_points)
        say(state.passed ? "Everything holds. Well done!" : "Each task holds by itself. Now check everything: only that counts.");
      else say(failed ? `${failed} not yet right. Begin with the first.` : "Checked.");
    }
  };
  const update = () => {
    const state = model.get("state");
    score.textContent = `${number(state.points)} of ${number(state.max_points)} points`;
    meter.max = state.max_points;
    meter.value = state.points;
    [all, reset].forEach((each) => allow(each, !state.busy));
    all.textContent = state.busy ? "Checking…" : "Check everything";
    allow(solution, !state.busy && state.passed);
    solution.title = state.passed ? "" : "opens with full marks";
    state.tasks.forEach((task, index) => tasks[index].update(task, state.busy));
    const lines = [state.message.text, state.message.why, state.message.mend && `Next: ${state.message.mend}`];
    message.replaceChildren(...lines.filter(Boolean).map((line) => make("p", "", line)));
    const picture = JSON.stringify(state.solution);
    if (picture !== shown) {
      files.replaceChildren(...state.solution.flatMap((file) => [make("h4", "", file.name), make("pre", "", file.text)]));
      shown = picture;
      answer.hidden = !state.solution.length;
      if (asked && !answer.hidden) openSolution();
    }
    tell();
  };
  const ticking = setInterval(() => {
    if (!model.get("state").busy) return;
    send({ do: "here" }); // no wish, only to learn whether anybody is there
    tell();
  }, 1000);
  model.on("change:state", update);
  update();
  return () => {
    letLettersGo();
    clearInterval(ticking);
    model.off("change:state", update);
  };
}

export default { render };
