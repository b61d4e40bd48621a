package vm

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Samples are the values of a scrape by series, labels included.
type Samples map[string]float64

// Scrape reads the daemon's metrics.
func (d *Daemon) Scrape(t TB) Samples {
	t.Helper()
	samples, err := d.Samples()
	if err != nil {
		t.Fatalf("metrics: %v", err)
	}
	return samples
}

// scrapes asks for text: to compress it takes the daemon most of a MiB now and then.
var scrapes = http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableCompression: true}}

// Samples is Scrape off the test's goroutine.
func (d *Daemon) Samples() (Samples, error) {
	resp, err := scrapes.Get(d.Metrics)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	samples := Samples{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		series, value, ok := cutLast(lines.Text(), " ")
		if !ok || strings.HasPrefix(series, "#") {
			continue
		}
		if samples[series], err = strconv.ParseFloat(value, 64); err != nil {
			return nil, fmt.Errorf("%q: %w", lines.Text(), err)
		}
	}
	return samples, lines.Err()
}

// String shows the daemon's own series that are not zero, a line each.
func (s Samples) String() string {
	var b strings.Builder
	for _, series := range slices.Sorted(maps.Keys(s)) {
		if value := s[series]; value != 0 && strings.HasPrefix(series, "vhost_user_vsock_") {
			fmt.Fprintf(&b, "%s %v\n", series, value)
		}
	}
	return b.String()
}

// Sum adds the series of a metric whose labels contain all of those given, each as
// name="value".
func (s Samples) Sum(metric string, labels ...string) float64 {
	var sum float64
series:
	for series, value := range s {
		name, rest, _ := strings.Cut(series, "{")
		if name != metric {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(rest, l) {
				continue series
			}
		}
		sum += value
	}
	return sum
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
