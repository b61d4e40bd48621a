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

// BootCloudHypervisor starts program, a cloud-hypervisor, with d's device and waits until
// its guest serves.
func BootCloudHypervisor(t TB, d *Daemon, program string) CloudHypervisor {
	t.Helper()
	image, err := bareMetal()
	if err != nil {
		t.Fatalf("bare-metal guest: %v", err)
	}
	c := startCloudHypervisor(t, d, program,
		"--kernel", image,
		"--cpus", "boot=1",
		"--memory", "size=64M,shared=on", // the device maps it
		"--serial", "tty", "--console", "off",
		"--generic-vhost-user", fmt.Sprintf("socket=%q,device_type=vsock,queue_sizes=[128,128,128]", d.Socket),
	)
	c.AwaitBoot(t)
	return c
}

// RestoreCloudHypervisor starts program with a machine that Snapshot saved in dir, and
// has it go on. Its device is at the socket it was at then.
func RestoreCloudHypervisor(t TB, d *Daemon, program, dir string) CloudHypervisor {
	t.Helper()
	c := startCloudHypervisor(t, d, program, "--restore", "source_url=file://"+dir+",resume=true")
	Eventually(t, bootLimit, "the machine is restored", func() bool {
		state, err := c.api.state()
		return err == nil && state == "Running"
	})
	return c
}

func startCloudHypervisor(t TB, d *Daemon, program string, args ...string) CloudHypervisor {
	t.Helper()
	socket := filepath.Join(tempDir(t), "api")
	args = append([]string{"--api-socket", "path=" + socket}, args...)
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
	var body io.Reader
	if parameters != nil {
		text, err := json.Marshal(parameters)
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequest(http.MethodPut, "http://localhost/api/v1/"+command, body)
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		why, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s: %s: %s", command, resp.Status, why)
	}
}

// state returns the machine's state in cloud-hypervisor's words.
func (a *api) state() (string, error) {
	resp, err := a.client.Get("http://localhost/api/v1/vm.info")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var info struct{ State string }
	return info.State, json.NewDecoder(resp.Body).Decode(&info)
}
