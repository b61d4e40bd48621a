package ctl

import (
	"strings"
	"text/tabwriter"
)

// table collects rows and sets them in columns. Whatever a cell holds, it stays one
// cell, and does nothing to a terminal.
type table struct {
	text strings.Builder
	w    *tabwriter.Writer
}

func newTable(titles ...string) *table {
	var t table
	t.w = tabwriter.NewWriter(&t.text, 0, 0, 2, ' ', 0)
	t.row(titles...)
	return &t
}

func (t *table) row(cells ...string) {
	for i, cell := range cells {
		cells[i] = plain(cell)
	}
	t.w.Write([]byte(strings.Join(cells, "\t") + "\n")) //nolint:errcheck // into memory
}

// lines returns the table, a row each.
func (t *table) lines() (lines []string) {
	t.w.Flush() //nolint:errcheck // into memory
	for line := range strings.Lines(t.text.String()) {
		lines = append(lines, strings.TrimRight(line, " \n"))
	}
	return lines
}
