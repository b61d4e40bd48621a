package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// report is a run as JSON has it: every round of every figure, so that whoever reads it
// need not take our medians for it.
type report struct {
	System  system         `json:"system"`
	Figures []figureReport `json:"figures"`
}

type system struct {
	Processors int    `json:"processors"`
	Arch       string `json:"arch"`
	Kernel     string `json:"kernel"`
	Go         string `json:"go"`
}

type figureReport struct {
	Name  string      `json:"name"`
	Title string      `json:"title"`
	Rows  []rowReport `json:"rows"`
	// Rounds by backend; those with one index were measured one behind the other.
	Rounds map[string][]round `json:"rounds"`
	Notes  []string           `json:"notes,omitempty"`
}

type rowReport struct {
	Metric metric             `json:"metric"`
	Title  string             `json:"title,omitempty"`
	Median map[string]float64 `json:"median"`
	// Ratio is the median of each backend's ratios to the bare limit.
	Ratio  map[string]float64 `json:"ratio,omitempty"`
	Target string             `json:"target,omitempty"`
	Met    string             `json:"met,omitempty"`
}

// newReport returns a report without figures.
func newReport() *report {
	r := &report{System: system{Processors: runtime.NumCPU(), Arch: runtime.GOARCH, Go: runtime.Version()}}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		r.System.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	return r
}

// add adds a figure.
func (r *report) add(f *figure, s series) {
	fr := figureReport{Name: f.name, Title: f.title, Rounds: s.rounds, Notes: s.notes}
	for _, row := range f.rows {
		rr := rowReport{Metric: row.metric, Title: row.title, Median: map[string]float64{}, Ratio: map[string]float64{}}
		for name := range s.rounds {
			if values := s.of(name, row.metric); len(values) > 0 {
				rr.Median[name] = median(values)
			}
			if values := s.ratios(name, bareName, row.metric); name != bareName && len(values) > 0 {
				rr.Ratio[name] = median(values)
			}
		}
		rr.Target, rr.Met = row.target.verdict(s, row)
		fr.Rows = append(fr.Rows, rr)
	}
	r.Figures = append(r.Figures, fr)
}

// write writes the report to a file.
func (r *report) write(path string) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// readReport reads what write wrote.
func readReport(path string) (*report, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &report{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}
