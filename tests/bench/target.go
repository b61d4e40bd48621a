package main

import "fmt"

// target is what the daemon is to reach: a bound of a ratio or of the value itself. The
// zero target is none.
type target struct {
	bound float64
	most  bool   // the value is to be no more, else no less
	of    string // whose value it is a ratio to; empty: it is the value itself
}

func atLeast(bound float64, of string) target { return target{bound: bound, of: of} }

func atMost(bound float64, of string) target { return target{bound: bound, most: true, of: of} }

// verdict says what the target is and whether it was met.
func (t target) verdict(s series, r row) (wanted, met string) {
	if t.bound == 0 {
		return "", ""
	}
	sign := "≥"
	if t.most {
		sign = "≤"
	}
	values, wanted := s.of(oursName, r.metric), sign+" "+r.unit.format(t.bound)
	if t.of != "" {
		values, wanted = s.ratios(oursName, t.of, r.metric), fmt.Sprintf("%s %.2f × %s", sign, t.bound, t.of)
	}
	v := median(values)
	switch {
	case len(values) == 0:
		return wanted, ""
	case t.most == (v <= t.bound) || v == t.bound:
		return wanted, "met"
	}
	return wanted, "NOT met"
}
