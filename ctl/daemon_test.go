package ctl

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/control"
)

// testDaemon answers on a control socket, and notes what it is asked.
type testDaemon struct {
	path   string
	server *http.Server

	mu     sync.Mutex
	vms    []control.VM // what follows is guarded by mu
	conns  []control.Connection
	silent []string  // the VMs that do not answer
	since  time.Time // when they were as old as they say; zero: they never age
	level  string
	cut    int64         // by a drain
	fails  error         // what it answers to any change, if not nil
	hangs  chan struct{} // if not nil, it reads from this twice before it tells of connections
	asked  []string
}

// startTestDaemon has d serve until the test ends, or stop.
func startTestDaemon(t *testing.T, d *testDaemon) *testDaemon {
	t.Helper()
	d.path, d.level = filepath.Join(t.TempDir(), "control"), "info"
	l, err := net.Listen("unix", d.path)
	if err != nil {
		t.Fatal(err)
	}
	d.server = &http.Server{Handler: control.Handler(d)}
	ended := make(chan error, 1)
	go func() { ended <- d.server.Serve(l) }()
	t.Cleanup(func() {
		d.stop()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return d
}

func (d *testDaemon) stop() { d.server.Close() }

func (d *testDaemon) note(what string) error {
	d.asked = append(d.asked, what)
	return d.fails
}

// set changes what it answers.
func (d *testDaemon) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

func (d *testDaemon) VMs() []control.VM {
	d.mu.Lock()
	defer d.mu.Unlock()
	vms := slices.Clone(d.vms)
	for i := range vms {
		vms[i].UptimeSeconds += d.aged()
	}
	return vms
}

func (d *testDaemon) aged() float64 {
	if d.since.IsZero() {
		return 0
	}
	return time.Since(d.since).Seconds()
}

func (d *testDaemon) Connections(vm string) (control.ConnectionList, error) {
	d.hang()
	d.mu.Lock()
	defer d.mu.Unlock()
	conns := slices.Clone(d.conns)
	for i := range conns {
		conns[i].AgeSeconds += d.aged()
	}
	if vm != "" {
		return control.ConnectionList{Connections: conns}, d.note("connections of " + vm)
	}
	return control.ConnectionList{Connections: conns, Unanswered: d.silent}, nil
}

func (d *testDaemon) hang() {
	d.mu.Lock()
	hangs := d.hangs
	d.mu.Unlock()
	if hangs != nil {
		<-hangs
		<-hangs
	}
}

func (d *testDaemon) Add(keys control.Keys) (control.VM, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return control.VM{Name: "new", Socket: "/s", UDSPath: "/u"}, d.note("add " + string(keys))
}

func (d *testDaemon) Remove(vm string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.note("remove " + vm)
}

func (d *testDaemon) Drain(_ context.Context, vm string, limit time.Duration) (control.DrainResult, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return control.DrainResult{ConnectionsCut: d.cut}, d.note("drain " + vm + " within " + limit.String())
}

func (d *testDaemon) LogLevel() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.level
}

func (d *testDaemon) SetLogLevel(level string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.level = level
	return d.note("log-level " + level)
}

// ctl runs the client beside the daemon.
func (d *testDaemon) ctl(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = Run(append([]string{"--control", d.path}, args...), &out, &errs)
	return code, out.String(), errs.String()
}
