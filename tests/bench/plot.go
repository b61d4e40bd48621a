package main

import (
	"fmt"
	"io"
	"strings"
	"text/template"
)

// The plot's measures in pixels.
const (
	plotWidth  = 760
	plotLeft   = 250 // of the bars
	plotRight  = 60  // for the number behind the longest bar
	plotTop    = 64
	barHeight  = 14
	groupSpace = 10 // between the bars of two figures
)

// longestBar is the ratio at which bars are cut off, so that the others can be seen.
const longestBar = 3

// plotted are the backends with bars, and their colours.
var plotted = []struct{ name, label, colour string }{
	{oursName, "vhost-user-vsock", "#2f7d5b"},
	{peerName, "rust-vmm vhost-device-vsock", "#b9b2a6"},
}

type bar struct {
	X, Y, Width, Height float64
	Colour, Text        string
	TextX, TextY        float64
}

type label struct {
	X, Y float64
	Text string
}

type picture struct {
	Width, Height float64
	Bars, Keys    []bar
	Labels, Ticks []label
	Top, Bottom   float64
}

// The text has a colour that can be read on white and on black, as pages have them.
var svg = template.Must(template.New("svg").Parse(`<svg xmlns="http://www.w3.org/2000/svg" width="{{.Width}}" height="{{.Height}}" viewBox="0 0 {{.Width}} {{.Height}}" font-family="sans-serif" font-size="12" fill="#7d7d7d">
<title>Throughput as a ratio to a bare AF_UNIX socket pair</title>
<text x="10" y="20" font-size="14">Throughput, as a ratio to a bare AF_UNIX socket pair (1.0) in the same run</text>
{{range .Keys}}<rect x="{{.X}}" y="{{.Y}}" width="{{.Width}}" height="{{.Height}}" fill="{{.Colour}}"/><text x="{{.TextX}}" y="{{.TextY}}">{{.Text}}</text>
{{end}}{{$p := .}}{{range .Ticks}}<line x1="{{.X}}" y1="{{$p.Top}}" x2="{{.X}}" y2="{{$p.Bottom}}" stroke="#7d7d7d" stroke-width="{{if eq .Text "1.0"}}1.5{{else}}0.4{{end}}"/><text x="{{.X}}" y="{{.Y}}" text-anchor="middle">{{.Text}}</text>
{{end}}{{range .Labels}}<text x="{{.X}}" y="{{.Y}}" text-anchor="end">{{.Text}}</text>
{{end}}{{range .Bars}}<rect x="{{.X}}" y="{{.Y}}" width="{{.Width}}" height="{{.Height}}" fill="{{.Colour}}"/><text x="{{.TextX}}" y="{{.TextY}}">{{.Text}}</text>
{{end}}</svg>
`))

// plot draws the throughput figures of a report.
func (r *report) plot(w io.Writer) error {
	scale := float64(plotWidth-plotLeft-plotRight) / longestBar
	p := picture{Width: plotWidth, Top: plotTop}
	y := float64(plotTop)
	for _, f := range r.Figures {
		ratio := f.Rows[0].Ratio
		if f.Rows[0].Metric != throughput || len(ratio) == 0 {
			continue
		}
		y += groupSpace
		first := y
		for _, b := range plotted {
			v, ok := ratio[b.name]
			if !ok {
				continue
			}
			width := min(v, longestBar) * scale
			p.Bars = append(p.Bars, bar{
				X: plotLeft, Y: y, Width: width, Height: barHeight - 2, Colour: b.colour,
				TextX: plotLeft + width + 5, TextY: y + barHeight - 4, Text: fmt.Sprintf("%.2f", v),
			})
			y += barHeight
		}
		p.Labels = append(p.Labels, label{plotLeft - 8, (first+y)/2 + 3, strings.ReplaceAll(f.Title, " connections", " conns.")})
	}
	if len(p.Bars) == 0 {
		return fmt.Errorf("no throughput was measured beside a bare socket")
	}
	p.Bottom = y + groupSpace
	for i := range 2*longestBar + 1 {
		at := float64(i) / 2
		p.Ticks = append(p.Ticks, label{plotLeft + at*scale, p.Bottom + 14, fmt.Sprintf("%.1f", at)})
	}
	p.Height = p.Bottom + 24
	x := float64(plotLeft)
	for _, b := range plotted {
		p.Keys = append(p.Keys, bar{X: x, Y: 32, Width: 12, Height: 12, Colour: b.colour, TextX: x + 18, TextY: 42, Text: b.label})
		x += 180
	}
	return svg.Execute(w, p)
}
