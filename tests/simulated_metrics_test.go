package tests

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// Metrics that say nothing about one VM.
var notOfAVM = []string{"vhost_user_vsock_build_info", "vhost_user_vsock_log_", "vhost_user_vsock_lost_", "vhost_user_vsock_reloads_", "vhost_user_vsock_waiting_"}

// A scrape under load is well-formed, and names its VM in every series of one. At
// the end gauges are at rest and the counters know every byte.
func TestSimulatedMetrics(t *testing.T) {
	t.Parallel()
	const size, conns = 3 * mib, 4
	h := newHost(t)
	b := h.boot(t)
	names := lint(t, h)
	var ends []func() error
	for i := range byte(conns) {
		g, c := b.dial()
		ends = append(ends, background(func() error { converse(t, c, g, both(size, i), both(size, 100+i)); return nil }))
		c2, g2 := b.call()
		ends = append(ends, background(func() error {
			converse(t, c2, g2, both(size, i), []script.Step{{Do: script.Drain}})
			return nil
		}))
	}
	for h.metric("payload_bytes_total") < size {
		lint(t, h)
	}
	if n := h.metric("connections"); n == 0 {
		t.Error("no connections under load")
	}
	for _, end := range ends {
		end()
	}
	h.mustForget()
	b.powerOff()
	b.peer.Shutdown()
	h.await(0, "frontend_attached")
	if again := lint(t, h); len(again) != len(names) {
		t.Errorf("%d series at the start, %d now", len(names), len(again))
	}
	for series, want := range map[string]int{
		`payload_bytes_total direction="tx"`:         conns * size,
		`payload_bytes_total direction="rx"`:         2 * conns * size,
		`packets_total direction="tx" op="request"`:  conns,
		`packets_total direction="rx" op="request"`:  conns,
		`packets_total direction="rx" op="response"`: conns,
		`handshakes_total result="ok"`:               conns,
		`discarded_bytes_total`:                      0,
		`dropped_packets_total`:                      0,
		`bad_chains_total`:                           0,
		`ring_errors_total`:                          0,
		`malformed_messages_total`:                   0,
		`sessions_ended_total reason="closed"`:       1,
		`ring_starts_total queue="tx"`:               1,
		`frontend_candidates`:                        0,
		`connections_limit`:                          4096,
		`buffered_limit_bytes`:                       256 * mib,
	} {
		labels := strings.Fields(series)
		if n := h.metric(labels[0], labels[1:]...); n != want {
			t.Errorf("%s is %d, want %d", series, n, want)
		}
	}
}

// lint scrapes, wants nothing to be wrong with it, and returns our series.
func lint(t *testing.T, h *host) (ours []string) {
	t.Helper()
	client := http.Client{Timeout: patience}
	resp, err := client.Get(h.Metrics)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	problems, err := promlint.New(resp.Body).Lint()
	if err != nil {
		t.Fatal("the scrape does not parse:", err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "vhost_user_vsock_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
series:
	for series := range h.Scrape(t) {
		if !strings.HasPrefix(series, "vhost_user_vsock_") {
			continue
		}
		ours = append(ours, series)
		for _, name := range notOfAVM {
			if strings.HasPrefix(series, name) {
				continue series
			}
		}
		if !strings.Contains(series, `vm="cid3"`) {
			t.Errorf("%s does not name its VM", series)
		}
	}
	return ours
}

// A scrape tells who waits for a guest that does not listen, and how often it was asked.
func TestSimulatedGuestWaits(t *testing.T) {
	t.Parallel()
	h := newHost(t, "--wait-for-guest", "1h")
	b := h.boot(t)
	port := newPort()
	c := h.client(t, fmt.Sprintf("CONNECT %d\n", port))
	h.await(1, "guest_waits")
	const asked = 3
	vm.Eventually(t, patience, "the guest is asked again and again", func() bool { return h.metric("guest_retries_total") >= asked })
	if n := h.metric("request_duration_seconds_count", `direction="host_initiated"`, `answer="rst"`); n < asked {
		t.Errorf("%d REQUESTs were answered by RST", n)
	}
	l := b.guest.Listen(port)
	defer l.Close()
	mustAccept(t, l)
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "OK ") {
		t.Errorf("read %q, error %v", line, err)
	}
	h.await(0, "guest_waits")
	h.await(1, "request_duration_seconds_count", `direction="host_initiated"`, `answer="response"`)
}

// A stderr that is closed, full or read by nobody stops nothing, however much
// there is to say.
func TestSimulatedStderr(t *testing.T) {
	t.Parallel()
	pipe := func(t *testing.T) (r, w *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close(); w.Close() })
		return r, w
	}
	for name, stderr := range map[string]func(*testing.T) *os.File{
		"reader gone":  func(t *testing.T) *os.File { r, w := pipe(t); r.Close(); return w },
		"nobody reads": func(t *testing.T) *os.File { _, w := pipe(t); return w },
		"no room": func(t *testing.T) *os.File {
			f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			return f
		},
		"no stderr": func(*testing.T) *os.File { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startWithStderr(t, stderr(t))
			for range 3 {
				h.mustServe(t)
			}
			for range 1000 { // each worth a line
				h.client(t, "nonsense\n").Close()
				h.frontend(t).Write(make([]byte, 12))
			}
			h.mustServe(t)
			h.mustIdle()
			h.terminate()
		})
	}
}

// startWithStderr starts a daemon that says all it has to say to stderr, which may
// be nil: then it has none.
func startWithStderr(t *testing.T, stderr *os.File) *host {
	t.Helper()
	built := newHost(t) // where the program is to be had
	dir, err := os.MkdirTemp("", "vsock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &host{t: t, Daemon: &vm.Daemon{Socket: filepath.Join(dir, "s"), UDS: filepath.Join(dir, "u")}}
	args := []string{fmt.Sprintf("/proc/%d/exe", built.pid), "--socket", h.Socket, "--uds-path", h.UDS, "--log-level", "debug"}
	if stderr == nil {
		args = append([]string{"sh", "-c", `exec "$0" "$@" 2>&-`}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if stderr != nil {
		cmd.Stderr = stderr
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h.pid = cmd.Process.Pid
	t.Cleanup(func() {
		watchdog := time.AfterFunc(patience, func() { cmd.Process.Kill() })
		defer watchdog.Stop()
		cmd.Process.Signal(unix.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Error("the daemon ended:", err)
		}
	})
	vm.Eventually(t, patience, "the daemon's sockets exist", func() bool {
		_, err := os.Lstat(h.Socket)
		_, err2 := os.Lstat(h.UDS)
		return err == nil && err2 == nil
	})
	return h
}
