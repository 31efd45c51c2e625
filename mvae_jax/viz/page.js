"use strict";
document.documentElement.classList.add("live");
const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;

for (const group of document.querySelectorAll(".sliders")) {
  const steps = JSON.parse(group.dataset.steps);
  const inputs = [...group.querySelectorAll("input")];
  const button = group.querySelector("button");
  let timer = 0, tick = Number(inputs[0].value);

  function show(input) {
    input.closest(".cell").querySelector(".strip").style.setProperty("--step", input.value);
    input.closest(".cell").querySelector(".value").textContent = steps[input.value];
    input.setAttribute("aria-valuetext", steps[input.value]);
  }
  function stop() {
    clearInterval(timer);
    timer = 0;
    button.textContent = "Play";
  }
  function play() {
    button.textContent = "Pause";
    timer = setInterval(() => {
      const period = 2 * (steps.length - 1); // there and back
      tick = (tick + 1) % period;
      for (const input of inputs) {
        input.value = Math.min(tick, period - tick);
        show(input);
      }
    }, 350);
  }

  button.addEventListener("click", () => (timer ? stop() : play()));
  for (const input of inputs) {
    show(input); // a browser may have kept its value
    input.addEventListener("input", () => { stop(); show(input); });
  }
  if (group.dataset.plays && !calm) play();
}
