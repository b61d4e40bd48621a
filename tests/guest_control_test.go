package tests

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// What an operator does in a day: two guests from a configuration file, one added, one
// drained, and somebody who scrapes the metrics all along.
func TestGuestsUnderControl(t *testing.T) {
	t.Parallel()
	f := vm.StartFleet(t, "first", "second")
	scraped := scrapeAllAlong(t, f)
	first, second := uml.on(t, f.Of("first")), uml.on(t, f.Of("second"))
	traffic := first.keepBusy(t)
	d := f.Of("third")
	f.MustCtl(t, "add", fmt.Sprintf("name=third,guest-cid=%d,socket=%s,uds-path=%s", vm.GuestCID, d.Socket, d.UDS))
	third := uml.on(t, d)
	labs := map[string]lab{"first": first, "second": second, "third": third}
	for name, l := range labs {
		l.mustWork(t)
		mustList(t, f, name, l)
	}

	second.drain(t, f, "second")
	mustBeGone(t, f, "second")
	vms := f.MustCtl(t, "vms")
	for name := range labs {
		if listed := regexp.MustCompile(`(?m)^` + name + ` +running `).MatchString(vms); listed != (name != "second") {
			t.Errorf("%s is listed: %v:\n%s", name, listed, vms)
		}
	}
	third.mustWork(t)
	mustGoOn(t, f, "first")
	traffic.mustHaveCarried(t)
	f.MustCtl(t, "remove", "third")
	mustBeGone(t, f, "third")
	t.Logf("%d scrapes meanwhile", scraped())
}

// scrapeAllAlong reads the metrics again and again until the returned function is
// called, which returns how often that was.
func scrapeAllAlong(t *testing.T, f *vm.Fleet) (stop func() int) {
	t.Helper()
	var stopped atomic.Bool
	wait := background(func() (n int) {
		for ; !stopped.Load(); time.Sleep(20 * time.Millisecond) { // as a rate
			samples, err := f.Samples()
			if err != nil || samples.Sum("vhost_user_vsock_vm_up", `vm="first"`) != 1 {
				t.Errorf("scrape: error %v:\n%v", err, samples)
				break
			}
			n++
		}
		return n
	})
	return func() int {
		stopped.Store(true)
		return wait()
	}
}

// mustList opens a connection each way and wants the client to show both.
func mustList(t *testing.T, f *vm.Fleet, name string, l lab) {
	t.Helper()
	gate := []script.Step{{Do: script.Wait, Gate: "listed"}}
	inGuest := l.serve(t, gate...)
	l.dial(t, inGuest)
	onHost, from := l.listen(t)
	dialled := l.callLater(script.Request{Op: script.Dial, Port: onHost, Steps: gate})
	accept(t, from)
	for _, c := range []string{
		fmt.Sprintf(`%s +stream +%d <- \d+ +established .*`, name, inGuest),
		fmt.Sprintf(`%s +stream +\d+ -> %d +established .*`, name, onHost),
	} {
		line := regexp.MustCompile(`(?m)^` + c + `$`)
		vm.Eventually(t, limit, "ctl connections shows "+c, func() bool {
			return line.MatchString(f.MustCtl(t, "connections")) && line.MatchString(f.MustCtl(t, "connections", name))
		})
	}
	l.call(t, script.Request{Op: script.Open, Gate: "listed"})
	if a := dialled(); a.err != nil {
		t.Error(a.err)
	}
}

// drain drains the VM while a connection is in the middle of its bytes.
func (l lab) drain(t *testing.T, f *vm.Fleet, name string) {
	t.Helper()
	const begin, rest = mib, 7 * mib
	carries := l.serve(t, script.Step{Do: script.Duplex, Bytes: begin + rest, Seed: 31})
	begun, goOn := make(chan string), make(chan struct{})
	conn := l.dial(t, carries)
	onHost := background(func() script.Report {
		return script.Run(conn, []script.Step{
			{Do: script.Send, Bytes: begin, Seed: 32}, {Do: script.Receive, Bytes: begin}, {Do: script.Wait, Gate: "draining"},
			{Do: script.Duplex, Bytes: rest, Seed: 33},
		}, func(gate string) {
			begun <- gate
			<-goOn
		})
	})
	<-begun
	// What is asked of the guest meanwhile has to be asked before: its report, and to
	// connect a second time, once the first connection ends.
	inGuest := l.callLater(script.Request{Op: script.Reports, Port: carries, Count: 1})
	port, from := l.listen(t)
	dialled := l.callLater(script.Request{Op: script.Dial, Port: port, Count: 2, Steps: []script.Step{{Do: script.Drain}}})
	before := accept(t, from)
	vm.Eventually(t, limit, "the guest has both requests", func() bool {
		return strings.Count(f.MustCtl(t, "connections", name), " <- ") == 3
	})

	drained := background(func() error {
		out, err := f.Ctl("drain", name)
		if err == nil && out != name+" is gone; no connection was cut\n" {
			return errors.New(out)
		}
		return err
	})
	vm.Eventually(t, limit, "ctl vms shows the drain", func() bool {
		return regexp.MustCompile(`(?m)^` + name + ` +draining `).MatchString(f.MustCtl(t, "vms"))
	})
	if c, err := l.Dial(carries); !errors.Is(err, io.EOF) {
		t.Errorf("a connection to a VM that is drained: %v, error %v", c, err)
	}
	before.Close()
	if a := dialled(); a.err != nil || a.Reports[0].Err() != nil || a.Reports[1].Errno != syscall.ECONNRESET {
		t.Errorf("connections of the guest before and in the drain: %+v", a)
	}
	if vms := f.MustCtl(t, "vms"); !strings.Contains(vms, "\n"+name+" ") {
		t.Errorf("the VM is gone before its connection:\n%s", vms)
	}
	close(goOn)
	h, a := onHost(), inGuest()
	if a.err != nil {
		t.Fatal(a.err)
	}
	mustAgree(t, h, a.Reports[0].Report)
	if err := drained(); err != nil {
		t.Error(err)
	}
}
