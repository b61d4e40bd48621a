package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
)

// bootLimit bounds a boot. The slowest guest takes 5 s of a processor, which a busy
// machine shares out among many.
const bootLimit = 180 * time.Second

// Guest is a running virtual machine whose init serves requests.
type Guest struct {
	daemon  *Daemon
	process *process
	monitor monitor // nil in User-Mode Linux
	boots   int     // how often it came up
}

// monitor is how a VMM is told what to do with its machine.
type monitor interface {
	pause(t TB)
	resume(t TB)
	reset(t TB)
}

func newGuest(t TB, d *Daemon, p *process, monitor monitor) *Guest {
	t.Helper()
	g := &Guest{daemon: d, process: p, monitor: monitor}
	g.AwaitBoot(t)
	return g
}

// AwaitBoot waits until the init serves, after the start or one more reset.
func (g *Guest) AwaitBoot(t TB) {
	t.Helper()
	g.boots++
	begin := time.Now()
	line, ok := g.process.out.await("guest: ready", g.boots, bootLimit)
	if !ok {
		t.Fatalf("%s did not come up within %v", g.process.name, bootLimit)
	}
	t.Logf("%s after %.1f s: %s", g.process.name, time.Since(begin).Seconds(), line)
}

// Stop pauses the machine; Continue lets it go on; Reset is its reset button.
func (g *Guest) Stop(t TB)     { t.Helper(); g.monitor.pause(t) }
func (g *Guest) Continue(t TB) { t.Helper(); g.monitor.resume(t) }
func (g *Guest) Reset(t TB)    { t.Helper(); g.monitor.reset(t) }

// AwaitLine waits until text occurs on the console for the n-th time and returns what
// follows, with it, on its line.
func (g *Guest) AwaitLine(t TB, text string, n int) string {
	t.Helper()
	line, ok := g.process.out.await(text, n, answerLimit)
	if !ok {
		t.Fatalf("%s did not print %q for the time number %d within %v", g.process.name, text, n, answerLimit)
	}
	return line
}

// Kill ends the machine at once, without a word to the guest.
func (g *Guest) Kill() { g.process.kill() }

// AwaitEnd waits until the machine has ended by itself.
func (g *Guest) AwaitEnd(t TB) {
	t.Helper()
	if err := g.process.wait(t, bootLimit); err != nil {
		t.Fatalf("%s: %v", g.process.name, err)
	}
}

// AwaitExit waits until the machine's process has ended by itself, well or badly.
func (g *Guest) AwaitExit(t TB) {
	t.Helper()
	g.process.wait(t, bootLimit)
}

// Call has the guest carry out a request and returns its answer. limit is for all of it.
func (g *Guest) Call(req script.Request, limit time.Duration) (script.Response, error) {
	var resp script.Response
	conn, err := Insist(g.daemon.Dial, script.ControlPort)
	if err != nil {
		return resp, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(limit))
	if err := json.NewEncoder(conn).Encode(req); err != nil {
		return resp, fmt.Errorf("request %s: %w", req.Op, err)
	}
	if err := json.NewDecoder(conn).Decode(&resp); err != nil {
		return resp, fmt.Errorf("response to %s: %w", req.Op, err)
	}
	if resp.Error != "" {
		return resp, errors.New(resp.Error)
	}
	return resp, nil
}

// Send has the guest carry out a request that it does not answer.
func (g *Guest) Send(req script.Request) error {
	conn, err := g.daemon.Dial(script.ControlPort)
	if err != nil {
		return err
	}
	defer conn.Close()
	return json.NewEncoder(conn).Encode(req)
}
