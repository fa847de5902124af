'use strict';

const root = document.documentElement;
const probe = document.body.appendChild(document.createElement('span'));
probe.hidden = true;

/* A CSS variable as plotly understands it: light-dark() resolved. */
function colour(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

function isDark() {
  return root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
}

/* The figure of a chart in the colours of the present appearance. */
function themed(figure) {
  const data = figure.data.map((trace) => {
    const own = colour(trace.meta.colour);
    return { ...trace, line: { ...trace.line, color: own }, marker: { ...trace.marker, color: own } };
  });
  const font = { color: colour('ink'), family: 'system-ui, sans-serif', size: 12 };
  const axis = { gridcolor: colour('rule'), zerolinecolor: colour('rule'), linecolor: colour('quiet'), showline: true };
  const layout = {
    ...figure.layout,
    height: 280,
    margin: { l: 48, r: 12, t: 8, b: 40 },
    showlegend: false,
    hovermode: 'closest',
    paper_bgcolor: 'rgba(0,0,0,0)',
    plot_bgcolor: 'rgba(0,0,0,0)',
    font,
    hoverlabel: { bgcolor: colour('raised'), font: { color: colour('ink') } },
    dragmode: matchMedia('(pointer: coarse)').matches ? false : 'zoom',
    xaxis: { ...axis, title: { text: 'iteration' } },
    yaxis: axis,
  };
  return { data, layout };
}

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Response(stream).text();
}

const plots = [...document.querySelectorAll('.plot')].map((place) => {
  return { place, figure: JSON.parse(place.firstElementChild.textContent) };
});

/* Draws the charts, anew after a change of appearance. */
async function draw() {
  for (const { place, figure } of plots) {
    const { data, layout } = themed(figure);
    await Plotly.react(place, data, layout, { responsive: true, displayModeBar: false });
  }
  root.dataset.ready = 'true';
}

async function loadCharts() {
  const packed = document.getElementById('packed');
  if (!plots.length) {
    root.dataset.ready = 'true';
    return;
  }
  if (!('DecompressionStream' in window)) {
    for (const { place } of plots) place.append('This browser is too old to unpack the charts.');
    return;
  }
  const library = document.createElement('script');
  library.textContent = await unpack(packed.textContent);
  document.head.append(library);
  packed.remove();
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
  await draw();
}

const toggle = document.getElementById('theme');

function label() {
  toggle.textContent = isDark() ? 'Light mode' : 'Dark mode';
}

toggle.addEventListener('click', () => {
  root.dataset.theme = isDark() ? 'light' : 'dark';
  label();
  if (window.Plotly) draw();
});
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', label);
label();
loadCharts();
