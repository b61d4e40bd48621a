package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// unit says how values of a figure are printed.
type unit int

const bytesPerSecond unit = iota

func (u unit) format(v float64) string {
	switch {
	case v >= gib:
		return fmt.Sprintf("%.2f GiB/s", v/gib)
	default:
		return fmt.Sprintf("%.1f MiB/s", v/mib)
	}
}

// table prints the medians of a run, a figure and backend a line.
type table struct{ out *tabwriter.Writer }

func newTable(w io.Writer) *table {
	t := &table{tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	fmt.Fprintln(t.out, "figure\tof\tmedian\t× bare\ttarget\tcpu s/GiB\t× bare\tcalls/packet\t× base")
	return t
}

// add prints the lines of a figure. The first backend is the one with targets.
func (t *table) add(f *figure, s series, backends []backend) {
	name := f.title
	line := func(of string) {
		fmt.Fprintf(t.out, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", name, of,
			f.unit.format(median(s.of(of, value))),
			ratio(s.ratios(of, limitName, value), of != limitName),
			t.verdict(f, s, of, backends),
			number(median(s.of(of, processor))),
			ratio(s.ratios(of, limitName, processor), of != limitName),
			number(median(s.of(of, notifications))),
			ratio(s.ratios(of, baseName, value), of == backends[0].name),
		)
		name = ""
	}
	if f.bare != nil {
		line(limitName)
	}
	for _, b := range backends {
		line(b.name)
	}
}

// verdict says whether the target was met.
func (t *table) verdict(f *figure, s series, of string, backends []backend) string {
	switch {
	case f.target == 0 || of != backends[0].name:
		return ""
	case median(s.ratios(of, limitName, value)) >= f.target:
		return fmt.Sprintf("%.2f met", f.target)
	}
	return fmt.Sprintf("%.2f NOT met", f.target)
}

// flush prints what was added.
func (t *table) flush() { t.out.Flush() }

func ratio(values []float64, wanted bool) string {
	if !wanted || len(values) == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", median(values))
}

func number(v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("%.3g", v)
}
