package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
)

// CloudHypervisor is a machine of a real cloud-hypervisor, in which the guest without an
// operating system runs. It needs KVM.
type CloudHypervisor struct {
	*Guest
	api *api
}

// BootCloudHypervisor starts program, a cloud-hypervisor, with d's device and further
// arguments, and waits until its guest serves.
func BootCloudHypervisor(t TB, d *Daemon, program string, args ...string) CloudHypervisor {
	t.Helper()
	image, err := bareMetal()
	if err != nil {
		t.Fatalf("bare-metal guest: %v", err)
	}
	c := startCloudHypervisor(t, d, program, append([]string{
		"--kernel", image,
		"--cpus", "boot=1",
		"--memory", "size=64M,shared=on", // the device maps it
		"--serial", "tty", "--console", "off",
		"--generic-vhost-user", fmt.Sprintf("socket=%q,device_type=vsock,queue_sizes=[128,128,128]", d.Socket),
	}, args...)...)
	c.AwaitBoot(t)
	return c
}

// RestoreCloudHypervisor starts program with a machine that Snapshot saved in dir, and
// has it go on. Its device is at the socket it was at then.
func RestoreCloudHypervisor(t TB, d *Daemon, program, dir string) CloudHypervisor {
	t.Helper()
	c := startCloudHypervisor(t, d, program, "--restore", "source_url=file://"+dir+",resume=true")
	c.awaitRunning(t)
	return c
}

// Migrate moves the running machine to another process of program, live. Its memory is
// copied while it runs, and then the pages that were written meanwhile, by the device too:
// those are in its dirty log. copied is called in between.
func (c CloudHypervisor) Migrate(t TB, program string, copied func()) CloudHypervisor {
	t.Helper()
	const someMemory = 512 << 10 // no other message is as long
	to, socket, received := c.receiver(t, program)
	r := newRelay(t, socket, someMemory)
	c.send(t, r.socket, false)
	select {
	case <-r.reached:
	case err := <-received:
		t.Fatalf("the migration ended early: %v", err)
	}
	copied()
	close(r.proceed)
	to.take(t, received)
	return to
}

// HandOver is Migrate to a process that takes the memory over as it is.
func (c CloudHypervisor) HandOver(t TB, program string) CloudHypervisor {
	t.Helper()
	to, socket, received := c.receiver(t, program)
	c.send(t, socket, true)
	to.take(t, received)
	return to
}

// receiver starts program so that it waits for a machine at a socket.
func (c CloudHypervisor) receiver(t TB, program string) (to CloudHypervisor, socket string, received chan error) {
	t.Helper()
	socket = filepath.Join(tempDir(t), "migration")
	to = startCloudHypervisor(t, c.daemon, program)
	Eventually(t, answerLimit, "the receiver's API is there", func() bool { return to.api.ping() == nil })
	received = make(chan error, 1)
	go func() {
		received <- to.api.do("vm.receive-migration", map[string]any{"receiver_url": "unix:" + socket})
	}()
	Eventually(t, answerLimit, "the receiver listens", func() bool { return exists(socket) })
	return to, socket, received
}

// send has the machine migrate to a socket, and does not wait for that.
func (c CloudHypervisor) send(t TB, socket string, handOver bool) {
	t.Helper()
	c.api.put(t, "vm.send-migration", map[string]any{"destination_url": "unix:" + socket, "local": handOver})
}

// take waits until the machine has come.
func (c CloudHypervisor) take(t TB, received chan error) {
	t.Helper()
	if err := <-received; err != nil {
		t.Fatalf("%v", err)
	}
	c.awaitRunning(t)
}

func (c CloudHypervisor) awaitRunning(t TB) {
	t.Helper()
	Eventually(t, bootLimit, "the machine runs", func() bool {
		state, err := c.api.state()
		return err == nil && state == "Running"
	})
}

func startCloudHypervisor(t TB, d *Daemon, program string, args ...string) CloudHypervisor {
	t.Helper()
	socket := filepath.Join(tempDir(t), "api")
	// Its filter of system calls fits the C library of its releases, not of every build.
	args = append([]string{"--api-socket", "path=" + socket, "--seccomp", "false"}, args...)
	p := start(t, "cloud-hypervisor", exec.Command(program, args...))
	api := newAPI(socket)
	return CloudHypervisor{&Guest{daemon: d, process: p, monitor: api}, api}
}

// Snapshot saves the machine, which must be stopped, in dir.
func (c CloudHypervisor) Snapshot(t TB, dir string) {
	t.Helper()
	c.api.put(t, "vm.snapshot", map[string]string{"destination_url": "file://" + dir})
}

// api is cloud-hypervisor's HTTP over a socket.
type api struct{ client http.Client }

const apiRoot = "http://localhost/api/v1/"

func newAPI(socket string) *api {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	// It is called seldom, and an idle connection would outlive the test.
	transport := &http.Transport{DialContext: dial, DisableKeepAlives: true}
	return &api{http.Client{Transport: transport, Timeout: bootLimit}}
}

func (a *api) pause(t TB)  { t.Helper(); a.put(t, "vm.pause", nil) }
func (a *api) resume(t TB) { t.Helper(); a.put(t, "vm.resume", nil) }
func (a *api) reset(t TB)  { t.Helper(); a.put(t, "vm.reboot", nil) }

// put carries out a command, with its parameters if it has any.
func (a *api) put(t TB, command string, parameters any) {
	t.Helper()
	if err := a.do(command, parameters); err != nil {
		t.Fatalf("%v", err)
	}
}

func (a *api) do(command string, parameters any) error {
	var body io.Reader
	if parameters != nil {
		text, err := json.Marshal(parameters)
		if err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequest(http.MethodPut, apiRoot+command, body)
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		why, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("%s: %s: %s", command, resp.Status, why)
	}
	return nil
}

// state returns the machine's state in cloud-hypervisor's words.
func (a *api) state() (string, error) {
	var info struct{ State string }
	err := a.get("vm.info", &info)
	return info.State, err
}

// ping returns whether the program answers.
func (a *api) ping() error { return a.get("vmm.ping", new(any)) }

func (a *api) get(what string, answer any) error {
	resp, err := a.client.Get(apiRoot + what)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(answer)
}
