package main

import (
	"bytes"
	"compress/gzip"
	"io"
	"testing"

	"golang.org/x/sys/unix"
)

// The sandbox leaves what profiles need.
func TestProcessIsProfiledInside(t *testing.T) {
	inTempDir(t)
	p := startDaemon(t, nil, "--metrics-addr", "127.0.0.1:0", "--pprof", "--sandbox", "on")
	if index := p.get(t, "/debug/pprof/"); !bytes.Contains(index, []byte("goroutine?debug=1")) {
		t.Errorf("index: %s", index)
	}
	if stacks := p.get(t, "/debug/pprof/goroutine?debug=1"); !bytes.Contains(stacks, []byte("eventloop.(*Loop).Run")) {
		t.Errorf("goroutines: %s", stacks)
	}
	if trace := p.get(t, "/debug/pprof/trace?seconds=0.01"); !bytes.HasPrefix(trace, []byte("go 1.")) {
		t.Errorf("trace of %d bytes: %.20q", len(trace), trace)
	}

	// Time is spent on scrapes meanwhile.
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-over:
				return
			default:
				p.scrape(t)
			}
		}
	}()
	profile := p.get(t, "/debug/pprof/profile?seconds=1")
	close(over)
	<-done
	z, err := gzip.NewReader(bytes.NewReader(profile))
	if err != nil {
		t.Fatal(err)
	}
	functions, err := io.ReadAll(z)
	if err != nil || !bytes.Contains(functions, []byte("daemon.(*vmCollector).Collect")) {
		t.Errorf("a profile of %d bytes, error %v, without the function that took the time", len(functions), err)
	}
	p.stop(t, unix.SIGTERM)
}
