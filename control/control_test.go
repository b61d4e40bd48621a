package control

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const testLimit = 20 * time.Second

// fake is a program that notes what it is asked.
type fake struct {
	vms         []VM
	connections map[string]ConnectionList
	added       Keys
	removed     string
	limits      chan time.Duration // of the drains that began
	drained     chan DrainResult   // ends one
	left        chan struct{}      // those that nobody waits for any more
	level       string
	refuses     error // what it answers to any change, if not nil
}

func (f *fake) VMs() []VM { return f.vms }

func (f *fake) Connections(vm string) (ConnectionList, error) {
	list, there := f.connections[vm]
	if !there {
		return list, NoSuchVM(vm)
	}
	return list, nil
}

func (f *fake) Add(keys Keys) (VM, error) {
	f.added = keys
	return VM{Name: "new", Origin: FromControl}, f.refuses
}

func (f *fake) Remove(vm string) error {
	f.removed = vm
	return f.refuses
}

func (f *fake) Drain(ctx context.Context, vm string, limit time.Duration) (DrainResult, error) {
	f.limits <- limit
	select {
	case result := <-f.drained:
		return result, f.refuses
	case <-ctx.Done():
		f.left <- struct{}{}
		return DrainResult{}, ctx.Err()
	}
}

func (f *fake) LogLevel() string { return f.level }

func (f *fake) SetLogLevel(level string) error {
	f.level = level
	return f.refuses
}

// serve answers requests about a program until the test ends.
func serve(t *testing.T, p Program) *Client {
	t.Helper()
	return serveBy(t, &http.Server{Handler: Handler(p)})
}

func serveBy(t *testing.T, s *http.Server) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "control")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	c := NewClient(path)
	t.Cleanup(func() {
		c.Close()
		s.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return c
}

func newFake() *fake {
	return &fake{limits: make(chan time.Duration, maxDrains), drained: make(chan DrainResult), left: make(chan struct{}, maxDrains)}
}

func TestClientSeesWhatTheProgramShows(t *testing.T) {
	f := newFake()
	c := serve(t, f)
	if vms, err := c.VMs(t.Context()); err != nil || vms == nil || len(vms) != 0 {
		t.Errorf("VMs %v, error %v; want an empty list", vms, err)
	}
	f.vms = []VM{
		{Name: "a", State: Running, Origin: FromConfig, GuestCID: 3, Socket: "sa", UDSPath: "ua",
			Connections: 1, MaxConnections: 2, BufferedBytes: 3, MaxBuffered: 4, TxBytes: 1 << 60, RxBytes: 6,
			TxPackets: 7, RxPackets: 8, UptimeSeconds: 1.5, WaitingOptions: []string{"packed"},
			StalledSeconds: &StallSeconds{Credit: 1, RxBuffers: 2, HostSocket: 3}},
		{Name: "b", State: Failed, Error: "why", Origin: FromControl},
	}
	connection := Connection{VM: "a", Type: "stream", GuestPort: 1, HostPort: 2, InitiatedBy: "guest", State: "established",
		WaitsFor: WaitGuestCredit, AgeSeconds: 2.5, TxBytes: 3, RxBytes: 4, CreditBytes: 5, BufferedBytes: 6}
	f.connections = map[string]ConnectionList{
		"":  {Connections: []Connection{connection, connection}, Unanswered: []string{"c", "d"}},
		"a": {Connections: []Connection{connection}},
		"b": {},
	}
	f.level = "warn"

	if vms, err := c.VMs(t.Context()); err != nil || !reflect.DeepEqual(vms, f.vms) {
		t.Errorf("VMs %v, error %v", vms, err)
	}
	if vm, err := c.VM(t.Context(), "b"); err != nil || !reflect.DeepEqual(vm, f.vms[1]) {
		t.Errorf("VM %v, error %v", vm, err)
	}
	for name, want := range map[string]ConnectionList{"": f.connections[""], "a": f.connections["a"], "b": {Connections: []Connection{}}} {
		if got, err := c.Connections(t.Context(), name); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("connections of %q: %+v, error %v", name, got, err)
		}
	}
	if level, err := c.LogLevel(t.Context()); err != nil || level != "warn" {
		t.Errorf("level %q, error %v", level, err)
	}
}

func TestClientChangesTheProgram(t *testing.T) {
	f := newFake()
	c := serve(t, f)
	if vm, err := c.Add(t.Context(), Keys(`{"name":"new"}`)); err != nil || vm.Name != "new" || string(f.added) != `{"name":"new"}` {
		t.Errorf("added %s, answer %v, error %v", f.added, vm, err)
	}
	if err := c.Remove(t.Context(), "a.b-c_d"); err != nil || f.removed != "a.b-c_d" {
		t.Errorf("removed %q, error %v", f.removed, err)
	}
	if err := c.SetLogLevel(t.Context(), "debug"); err != nil || f.level != "debug" {
		t.Errorf("level %q, error %v", f.level, err)
	}
	go func() { f.drained <- DrainResult{ConnectionsCut: 3} }()
	if result, err := c.Drain(t.Context(), "a", 90*time.Second); err != nil || result.ConnectionsCut != 3 {
		t.Errorf("drained %v, error %v", result, err)
	}
	if limit := <-f.limits; limit != 90*time.Second {
		t.Errorf("limit %v", limit)
	}
}

func TestClientSeesWhyItIsRefused(t *testing.T) {
	f := newFake()
	f.refuses = &Error{http.StatusConflict, "name taken"}
	c := serve(t, f)
	_, none := c.VM(t.Context(), "none")
	_, noneEither := c.Connections(t.Context(), "none")
	_, taken := c.Add(t.Context(), Keys(`{}`))
	for want, err := range map[int]error{
		http.StatusNotFound: none,
		http.StatusConflict: taken,
	} {
		if refused, ok := errors.AsType[*Error](err); !ok || refused.Status != want {
			t.Errorf("error %v, want status %d", err, want)
		}
	}
	if none.Error() != `VM "none": there is none of this name` || noneEither.Error() != none.Error() || taken.Error() != "name taken" {
		t.Errorf("errors %q, %q, %q", none, noneEither, taken)
	}
	path := filepath.Join(t.TempDir(), "nobody")
	if _, err := NewClient(path).VMs(t.Context()); err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "http:") {
		t.Errorf("without a program: %v", err)
	}
}

// ask makes a request as it stands and returns what came of it.
func ask(t *testing.T, c *Client, method, path, body string) (status int, answer string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://control"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	if status = got.StatusCode; status < http.StatusMultipleChoices {
		return status, ""
	}
	return status, refusal(got).Error()
}

func TestServerRefusesFaultyRequests(t *testing.T) {
	f := newFake()
	f.vms = []VM{{Name: "a"}}
	close(f.drained) // none is to begin
	c := serve(t, f)
	for _, tt := range []struct {
		method, path, body string
		status             int
		answer             string
	}{
		{"GET", "/", "", 404, "GET /: no such call"},
		{"PATCH", "/v1/vms", "", 404, "PATCH /v1/vms: no such call"},
		{"GET", "/v1/vms/b", "", 404, `VM "b": there is none`},
		{"POST", "/v1/vms", "", 400, "body: empty"},
		{"POST", "/v1/vms", "{", 400, "body: not what is asked for: unexpected EOF"},
		{"POST", "/v1/vms", "{} {}", 400, "body: more than one"},
		{"POST", "/v1/vms", "{}" + strings.Repeat(" ", maxBody), 400, "body: larger than 65536 bytes"},
		{"POST", "/v1/vms", `{"name":"` + strings.Repeat("a", maxBody) + `"}`, 400, "body: larger than 65536 bytes"},
		{"POST", "/v1/vms/a/drain", `{"timeout":"soon"}`, 400, `timeout "soon": not a time`},
		{"POST", "/v1/vms/a/drain", `{"timeout":"-1s"}`, 400, `timeout "-1s": not a time`},
		{"POST", "/v1/vms/a/drain", `{"timeout":5}`, 400, "body: not what is asked for"},
		{"POST", "/v1/vms/a/drain", `{"time":"5s"}`, 400, `body: "time": no such key`},
		{"PUT", "/v1/log-level", `{"level":"info","for":"ever"}`, 400, `body: "for": no such key`},
		{"PUT", "/v1/log-level", ``, 400, "body: empty"},
	} {
		status, answer := ask(t, c, tt.method, tt.path, tt.body)
		if status != tt.status || !strings.HasPrefix(answer, tt.answer) {
			t.Errorf("%s %s %.40s: %d %q, want %d %q", tt.method, tt.path, tt.body, status, answer, tt.status, tt.answer)
		}
	}
	if f.added != nil || f.level != "" || len(f.limits) > 0 {
		t.Errorf("changed by them: %+v", f)
	}
}

// Who waits for a drain has one of few connections, and leaves some to others.
func TestServerBoundsWaitingDrains(t *testing.T) {
	f := newFake()
	c := serve(t, f)
	results := make(chan error, maxDrains)
	for range maxDrains {
		go func() {
			_, err := c.Drain(t.Context(), "a", 0)
			results <- err
		}()
		if limit := <-f.limits; limit != 0 {
			t.Errorf("limit %v", limit)
		}
	}
	if status, answer := ask(t, c, "POST", "/v1/vms/a/drain", ""); status != http.StatusServiceUnavailable || !strings.Contains(answer, "8 clients wait") {
		t.Errorf("one more: %d %q", status, answer)
	}
	for range maxDrains {
		f.drained <- DrainResult{}
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	go func() { f.drained <- DrainResult{} }()
	if status, answer := ask(t, c, "POST", "/v1/vms/a/drain", ""); status != http.StatusOK {
		t.Errorf("one later: %d %q", status, answer)
	}
}

// A drain may take longer than a request has to arrive and an answer to leave.
func TestServerAnswersALongDrain(t *testing.T) {
	const limit = 500 * time.Millisecond
	f := newFake()
	c := serveBy(t, &http.Server{Handler: Handler(f), ReadTimeout: limit, WriteTimeout: limit})
	go func() {
		<-f.limits
		time.Sleep(2 * limit)
		f.drained <- DrainResult{ConnectionsCut: 1}
	}()
	if result, err := c.Drain(t.Context(), "a", 0); err != nil || result.ConnectionsCut != 1 {
		t.Errorf("result %v, error %v", result, err)
	}
}

// Who has left waits for nothing, and leaves its place to others.
func TestServerForgetsClientsThatLeave(t *testing.T) {
	f := newFake()
	c := serve(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan error)
	for range maxDrains {
		go func() {
			_, err := c.Drain(ctx, "a", 0)
			results <- err
		}()
		<-f.limits
	}
	cancel()
	for range maxDrains {
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		<-f.left
	}
	go func() {
		<-f.limits
		f.drained <- DrainResult{}
	}()
	for end := time.Now().Add(testLimit); ; time.Sleep(time.Millisecond) {
		_, err := c.Drain(t.Context(), "a", 0)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}
