package main

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// startInProcess starts a daemon that the test sends signals by a channel.
func startInProcess(t *testing.T) (d *daemon, signals chan os.Signal, result chan error) {
	t.Helper()
	inTempDir(t)
	log := newLogging(new(lockedBuffer), 0, logText)
	d = &daemon{log: log, ended: make(chan struct{})}
	if err := d.start(mustParse(t, "--socket", "s", "--uds-path", "u", "--metrics-addr", "127.0.0.1:0")); err != nil {
		t.Fatal(err)
	}
	signals, result = make(chan os.Signal), make(chan error, 1)
	go func() {
		result <- d.wait(signals, nil)
		log.flush(testLimit)
	}()
	return d, signals, result
}

func expectEnd(t *testing.T, result chan error, want error) {
	t.Helper()
	select {
	case err := <-result:
		if !errors.Is(err, want) {
			t.Errorf("ended with %v, want %v", err, want)
		}
	case <-time.After(testLimit):
		t.Fatal("did not end")
	}
}

func TestDaemonEndsBySignal(t *testing.T) {
	d, signals, result := startInProcess(t)
	// Other names of its sockets, to ask for them when theirs are gone.
	for _, path := range []string{"s", "u"} {
		if err := os.Link(path, "alias of "+path); err != nil {
			t.Fatal(err)
		}
		if !d.own.Owns("alias of " + path) {
			t.Errorf("%s is not known as the daemon's own", path)
		}
	}
	signals <- unix.SIGTERM
	expectEnd(t, result, nil)
	expectFiles(t, "alias of s", "alias of u")
	for _, path := range []string{"s", "u"} {
		if d.own.Owns("alias of " + path) {
			t.Errorf("%s is still known as the daemon's own", path)
		}
	}
}

func TestDaemonEndsAtOnceByASecondSignal(t *testing.T) {
	d, signals, result := startInProcess(t)
	release := make(chan struct{})
	d.vms[0].loop.Do(func() { <-release })
	signals <- unix.SIGTERM
	signals <- unix.SIGTERM
	expectEnd(t, result, errHurried)
	close(release)
	<-d.vms[0].done
	<-d.http.done
}

func TestDaemonEndsWithItsLoop(t *testing.T) {
	d, _, result := startInProcess(t)
	d.vms[0].loop.Stop()
	expectEnd(t, result, nil)
	expectFiles(t)
}
