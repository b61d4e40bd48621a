package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

// tiny is enough to have every path taken. All bytes are compared.
var (
	tiny      = scale{several: 4, many: threads + 4, active: threads + 8, idle: 50, machines: 3}
	tinyParam = params{stretch: 10 * time.Millisecond, check: true}
)

// ours returns the daemon of this tree.
func ours(t *testing.T) backend {
	t.Helper()
	path, err := vm.DaemonProgram()
	if err != nil {
		t.Fatal(err)
	}
	return daemon(oursName, path)
}

// TestEveryFigure measures everything once, at a scale at which speed means nothing: each
// figure has its values, and no byte was lost or changed.
func TestEveryFigure(t *testing.T) {
	d := ours(t)
	peer := d
	peer.name, peer.ours = peerName, false // one of which nothing is known
	for _, f := range figures(tiny) {
		t.Run(f.name, func(t *testing.T) {
			s, err := f.measure(t.Output(), []backend{d, peer}, tinyParam, 2)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range s.notes {
				t.Error(n)
			}
			if f.bare != nil && len(s.rounds[bareName]) != 2 {
				t.Errorf("%d rounds of the bare limit, want 2", len(s.rounds[bareName]))
			}
			for _, r := range f.rows {
				values := s.of(oursName, r.metric)
				if len(values) != 2 {
					t.Fatalf("%d values of %s, want 2", len(values), r.metric)
				}
				for _, v := range values {
					if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 || v == 0 && !mayBeZero[r.metric] {
						t.Errorf("%s is %v", r.metric, v)
					}
				}
			}
		})
	}
}

var mayBeZero = map[metric]bool{allocationsPerPacket: true, callsPerPacket: true, memoryEach: true}

// TestDriverWithoutFeatures has the driver do without the ring features that a backend may
// lack.
func TestDriverWithoutFeatures(t *testing.T) {
	for _, features := range []uint64{
		vhostuser.FeatureVersion1,
		vhostuser.FeatureVersion1 | vhostuser.FeatureEventIdx,
		vhostuser.FeatureVersion1 | vhostuser.FeatureIndirectDesc,
	} {
		for _, d := range []direction{tx, rx} {
			m := ours(t).machineWith(t, vhostusertest.GuestOptions{RingSize: ringSize, Features: features})
			carry(t, d.carrier(t, m, flow{2, 4 * kib}, true), 5*time.Millisecond)
		}
	}
}

// TestLossIsNoticed has a program read what the guest had not sent, and miss a byte.
func TestLossIsNoticed(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range pair {
		t.Cleanup(func() { unix.Close(fd) })
	}
	r := startReader(t, pair[1:], true)
	p := make([]byte, 100)
	fill(p, 0)
	for i, part := range [][]byte{p[:50], p[51:]} {
		unix.Write(pair[0], part)
		sent := uint64(50 + 49*i)
		vm.Eventually(t, patience, "the program has read", func() bool { return r.bytes.Load() == sent })
		if got, want := r.broken.Load(), i == 1; got != want {
			t.Errorf("after %d bytes a byte is missing: %v, want %v", sent, got, want)
		}
	}
}

// TestBackendThatFails is left out, while ours must not fail.
func TestBackendThatFails(t *testing.T) {
	f := figure{machine: func(tb testing.TB, b backend, _ params) gauge {
		n := 0
		return func(tb testing.TB) round {
			if n++; b.name != "good" && n == 2 {
				tb.Fatal("no more")
			}
			return round{throughput: 1}
		}
	}}
	good, bad := backend{name: "good", ours: true}, backend{name: "bad"}
	s, err := f.measure(io.Discard, []backend{good, bad}, params{}, 3)
	if err != nil || len(s.rounds["good"]) != 3 || len(s.rounds["bad"]) != 0 || len(s.notes) != 1 {
		t.Errorf("error %v, rounds %v, notes %q", err, s.rounds, s.notes)
	}
	bad.ours = true
	if _, err := f.measure(io.Discard, []backend{good, bad}, params{}, 3); err == nil || !strings.Contains(err.Error(), "no more") {
		t.Errorf("error %v, want the one of bad", err)
	}
}

// TestBackendThatEnds says so, with what it printed.
func TestBackendThatEnds(t *testing.T) {
	var out bytes.Buffer
	s := vm.Stage{Out: &out}
	s.Act(func() { backend{name: "no", program: "sh -c 'echo why; exit 3'"}.start(&s, 1) })
	s.Clear()
	if !s.Failed() || !strings.Contains(s.Err.Error(), "why") {
		t.Errorf("error %v", s.Err)
	}
}

// A flag that a figure needs takes the place of one that the daemon was given.
func TestFlagOfAFigure(t *testing.T) {
	for given, want := range map[string]string{
		"":                         " --poll-us 100",
		" --poll-us 0":             " --poll-us 100",
		" --poll-us=0 --ok-port 1": " --ok-port 1 --poll-us 100",
	} {
		b := backend{program: "daemon" + given, ours: true}
		if got := b.with(pollFlag, "100").program; got != "daemon"+want {
			t.Errorf("%q becomes %q", b.program, got)
		}
		if b.ours = false; b.with(pollFlag, "100") != b {
			t.Error("another backend is given flags of ours")
		}
	}
}

func TestChosen(t *testing.T) {
	for only, want := range map[string]string{
		"":                 "tx/64 tx/64K tx/64K/16 rtt/1 neighbours",
		"tx/64":            "tx/64",
		"tx/64K":           "tx/64K tx/64K/16",
		"neighbours,tx/64": "tx/64 neighbours",
		"tx,t,rtt":         "tx/64 tx/64K tx/64K/16 rtt/1",
		"none":             "",
	} {
		var names []string
		for _, f := range chosen([]figure{{name: "tx/64"}, {name: "tx/64K"}, {name: "tx/64K/16"}, {name: "rtt/1"}, {name: "neighbours"}}, only) {
			names = append(names, f.name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%q: %q, want %q", only, got, want)
		}
	}
}

func TestTargets(t *testing.T) {
	s := series{rounds: map[string][]round{
		oursName: {{throughput: 90}, {throughput: 10}, {throughput: 80}},
		bareName: {{throughput: 100}, {throughput: 10}, {throughput: 100}},
	}}
	for _, c := range []struct {
		target target
		met    string
	}{
		{target{}, ""},
		{atLeast(0.9, bareName), "met"},
		{atLeast(0.91, bareName), "NOT met"},
		{atMost(0.9, bareName), "met"},
		{atMost(0.89, bareName), "NOT met"},
		{atLeast(80, ""), "met"},
		{atMost(79, ""), "NOT met"},
		{atLeast(2, peerName), ""},
	} {
		if _, met := c.target.verdict(s, row{metric: throughput, target: c.target}); met != c.met {
			t.Errorf("%+v: %q, want %q", c.target, met, c.met)
		}
	}
}

func TestPercentiles(t *testing.T) {
	times := make([]time.Duration, 1000)
	for i := range times {
		times[len(times)-1-i] = time.Duration(i+1) * time.Second
	}
	r := percentiles(times)
	if r[half] != 501 || r[most] != 991 || r[nearlyAll] != 1000 || r[spread] != 991.0/501 {
		t.Errorf("%v", r)
	}
	if r := percentiles(times[:1]); r[half] != 1 || r[nearlyAll] != 1 {
		t.Errorf("of one: %v", r)
	}
}

// TestPlot draws a report that went through a file.
func TestPlot(t *testing.T) {
	f := tx.throughput(flow{1, 64})
	r := newReport()
	r.add(&f, series{rounds: map[string][]round{
		oursName: {{throughput: 500}}, peerName: {{throughput: 25}}, bareName: {{throughput: 100}},
	}})
	rtt := roundTrip(1, "")
	r.add(&rtt, series{rounds: map[string][]round{oursName: {{half: 1}}, bareName: {{half: 1}}}})
	path := filepath.Join(t.TempDir(), "bench.json")
	if err := r.write(path); err != nil {
		t.Fatal(err)
	}
	read, err := readReport(path)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := read.plot(&out); err != nil {
		t.Fatal(err)
	}
	decoder, texts := xml.NewDecoder(&out), ""
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if text, ok := token.(xml.CharData); ok {
			texts += string(text) + "\n"
		}
	}
	for _, want := range []string{"guest → host, 64 B", "5.00", "0.25", "1.0"} {
		if !strings.Contains(texts, want+"\n") {
			t.Errorf("the plot has no %q:\n%s", want, texts)
		}
	}
	if strings.Contains(texts, "round trip") {
		t.Error("the plot has a figure that is no throughput")
	}
	if err := newReport().plot(io.Discard); err == nil {
		t.Error("a plot of nothing")
	}
}
