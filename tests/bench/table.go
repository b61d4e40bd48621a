package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// table prints the medians of a run, a row each.
type table struct {
	out   *tabwriter.Writer
	names []string // of the backends but ours
	notes []string
}

func newTable(w io.Writer, backends []backend) *table {
	t := &table{out: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	fmt.Fprintf(t.out, "\t%s\t%s\tratio\ttarget\t\t", oursName, bareName)
	for _, b := range backends[1:] {
		t.names = append(t.names, b.name)
		fmt.Fprintf(t.out, "%s\t%[2]s/%[1]s\t%[1]s/%[3]s\t", b.name, oursName, bareName)
	}
	fmt.Fprintln(t.out)
	return t
}

// add prints the rows of a figure.
func (t *table) add(f *figure, s series) {
	for _, r := range f.rows {
		if len(s.of(oursName, r.metric)) == 0 {
			continue
		}
		title := f.title
		if r.title != "" {
			title = "  " + r.title
		}
		wanted, met := r.target.verdict(s, r)
		fmt.Fprintf(t.out, "%s\t%s\t%s\t%s\t%s\t%s\t", title,
			r.value(s, oursName), r.value(s, bareName), r.ratio(s, oursName, bareName), wanted, met)
		for _, name := range t.names {
			fmt.Fprintf(t.out, "%s\t%s\t%s\t", r.value(s, name), r.ratio(s, oursName, name), r.ratio(s, name, bareName))
		}
		fmt.Fprintln(t.out)
	}
	for _, n := range s.notes {
		t.notes = append(t.notes, f.name+": "+n)
	}
}

// flush prints what was added, and why figures are missing.
func (t *table) flush() {
	t.out.Flush()
	for _, n := range t.notes {
		fmt.Fprintf(t.out, "\n%s", n)
	}
	t.out.Flush()
}

// value returns the median of a backend's, empty if it has none.
func (r row) value(s series, name string) string {
	values := s.of(name, r.metric)
	if len(values) == 0 {
		return ""
	}
	return r.unit.format(median(values))
}

// ratio returns the median of the ratios round by round, empty if there are none.
func (r row) ratio(s series, name, to string) string {
	values := s.ratios(name, to, r.metric)
	if len(values) == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", median(values))
}
