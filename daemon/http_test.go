package daemon

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/vhost-user-vsock/vhost-user-vsock/eventloop"
)

// quietLog drops what the tests do not look at.
func quietLog() logrus.FieldLogger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// listOf returns the list of a fleet that never changes.
func listOf(vms ...*vm) func() []*vm { return func() []*vm { return vms } }

// runLoop returns a VM that consists of a running loop.
func runLoop(t *testing.T) *vm {
	t.Helper()
	loop, err := eventloop.New(eventloop.Monotonic())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- loop.Run() }()
	t.Cleanup(func() {
		loop.Stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := loop.Close(); err != nil {
			t.Error(err)
		}
	})
	v := &vm{name: "cid3", loop: loop}
	v.stats.up.Set(1)
	return v
}

func startHTTP(t *testing.T, vms []*vm) *httpServer {
	t.Helper()
	s, err := listenHTTP(nil, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	metrics := newMetrics(listOf(vms...), new(programStats), noneLost, "devel")
	s.start(metricsHandler(metrics, healthHandler(listOf(vms...)), false, quietLog()), quietLog())
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// get makes a request on a connection of its own.
func get(t *testing.T, s *httpServer, path string) (code int, body string) {
	t.Helper()
	client := http.Client{Timeout: testLimit, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + s.listener.Addr().String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestHTTPScrape(t *testing.T) {
	s := startHTTP(t, []*vm{runLoop(t)})
	code, body := get(t, s, "/metrics")
	if code != http.StatusOK {
		t.Errorf("status %d", code)
	}
	for _, want := range []string{
		"# TYPE vhost_user_vsock_connections gauge\n",
		`vhost_user_vsock_connections{direction="guest_initiated",state="established",vm="cid3"} 0` + "\n",
		`vhost_user_vsock_resets_total{reason="refused",vm="cid3"} 0` + "\n",
		"vhost_user_vsock_build_info{",
		"process_open_fds ",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("missing: %s", want)
		}
	}
	if code, body := get(t, s, "/healthz"); code != http.StatusOK || body != "ok\n" {
		t.Errorf("/healthz: %d %q", code, body)
	}
	for _, path := range []string{"/", "/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/heap"} {
		if code, _ := get(t, s, path); code != http.StatusNotFound {
			t.Errorf("%s: status %d", path, code)
		}
	}
}

func TestHTTPAddressInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	addr := taken.Addr().String()
	if _, err := listenHTTP(nil, addr); err == nil || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "--metrics-addr") {
		t.Errorf("error %v", err)
	}
}

func TestHTTPLimitsOpenConnections(t *testing.T) {
	s := startHTTP(t, nil)
	addr := s.listener.Addr().String()
	var idle []net.Conn
	for range httpClients {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		idle = append(idle, c)
	}
	slots := s.listener.(*limitedListener).slots
	waitFor(t, func() bool { return len(slots) == httpClients })

	late, err := net.Dial("tcp", addr) // the kernel takes it
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	if _, err := io.WriteString(late, "GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	idle[0].Close() // makes room
	late.SetDeadline(time.Now().Add(testLimit))
	if line, err := bufio.NewReader(late).ReadString('\n'); err != nil || line != "HTTP/1.1 200 OK\r\n" {
		t.Errorf("answer %q, error %v", line, err)
	}
}

func TestLimitedListenerCloseEndsAWaitingAccept(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := limitListener(inner, 0) // no slot ever
	failed := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		failed <- err
	}()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-failed:
		if err == nil {
			t.Error("accepted without a slot")
		}
	case <-time.After(testLimit):
		t.Error("Accept did not return")
	}
}

func TestHealthOfAStuckLoop(t *testing.T) {
	v := runLoop(t)
	release := make(chan struct{})
	v.loop.Do(func() { <-release })

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if !slices.Contains(examine(ctx, []*vm{v}), v) {
		t.Error("not stuck though its loop is")
	}
	nothing := func() struct{} { return struct{}{} }
	first := v.probe.ask(v.loop.Do, nothing)
	if first != v.probe.ask(v.loop.Do, nothing) {
		t.Error("probes pile up")
	}
	close(release)
	select {
	case <-first.given:
	case <-time.After(testLimit):
		t.Error("no answer though the loop goes on")
	}
	if stuck := examine(context.Background(), []*vm{v}); len(stuck) > 0 {
		t.Error("still stuck")
	}
}

// A loop that ends while it is asked is not stuck, however late that is noticed.
func TestHealthOfALoopThatHasEnded(t *testing.T) {
	v := &vm{done: make(chan struct{})}
	close(v.done)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 { // select takes any that is ready
		if !v.answers(ctx, make(chan struct{})) {
			t.Fatal("it is stuck")
		}
	}
}

func TestHealthGivesUpAfterASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := &vm{name: "cid3", probe: question[struct{}]{pending: &answer[struct{}]{given: make(chan struct{})}}}
		stuck.stats.up.Set(1)
		start := time.Now()
		answer := httptest.NewRecorder()
		healthHandler(listOf(stuck)).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/healthz", nil))
		if answer.Code != http.StatusServiceUnavailable || !strings.Contains(answer.Body.String(), "cid3") {
			t.Errorf("answer %d %q", answer.Code, answer.Body)
		}
		if took := time.Since(start); took != healthLimit {
			t.Errorf("took %v", took)
		}
	})
}
