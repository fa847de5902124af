'use strict';

const root = document.documentElement;
const probe = document.body.appendChild(document.createElement('span'));
const toggle = document.getElementById('theme');
const dark = matchMedia('(prefers-color-scheme: dark)');
const plots = [...document.querySelectorAll('.plot')].map((place) => {
  return { place, figure: JSON.parse(place.firstElementChild.textContent) };
});
probe.hidden = true;

/* A CSS variable as plotly understands it: light-dark() resolved. */
function colour(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

function isDark() {
  return root.dataset.theme ? root.dataset.theme === 'dark' : dark.matches;
}

/* Draws the charts, and anew after a change of appearance, in its colours. */
async function draw() {
  toggle.textContent = isDark() ? 'Light mode' : 'Dark mode';
  const axis = { gridcolor: colour('rule'), zerolinecolor: colour('rule'), linecolor: colour('quiet'), showline: true };
  const layout = {
    height: 280,
    margin: { l: 48, r: 12, t: 8, b: 40 },
    showlegend: false,
    hovermode: 'closest',
    paper_bgcolor: 'rgba(0,0,0,0)',
    plot_bgcolor: 'rgba(0,0,0,0)',
    font: { size: 12, color: colour('ink'), family: 'system-ui, sans-serif' },
    hoverlabel: { bgcolor: colour('raised'), font: { color: colour('ink') } },
    dragmode: matchMedia('(pointer: coarse)').matches ? false : 'zoom',
    xaxis: { ...axis, title: { text: 'iteration' } },
    yaxis: axis,
  };
  for (const { place, figure } of window.Plotly ? plots : []) {
    for (const trace of figure.data) trace.line.color = colour(trace.meta.colour);
    const settings = { ...figure.layout, ...structuredClone(layout) }; // Plotly writes the ranges of a chart into it
    await Plotly.react(place, figure.data, settings, { responsive: true, displayModeBar: false });
  }
}

async function loadCharts() {
  const library = document.createElement('script');
  const bytes = Uint8Array.from(atob(document.getElementById('packed').textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  library.textContent = await new Response(stream).text();
  document.head.append(library);
}

toggle.addEventListener('click', () => {
  root.dataset.theme = isDark() ? 'light' : 'dark';
  draw();
});
dark.addEventListener('change', draw);
draw();
if (plots.length && !('DecompressionStream' in window)) {
  for (const { place } of plots) place.append('This browser is too old to unpack the charts.');
} else {
  Promise.resolve(plots.length && loadCharts()).then(draw).then(() => (root.dataset.ready = 'true'));
}
