// Command supervise ties a server to the process that started it.
//
//	supervise [--pid-file FILE] [--remove DIR] [-- COMMAND ARG...]
//
// It runs COMMAND in a process group of its own and kills that group as soon as its own standard input reaches
// end of file. Whoever holds the writing end needs to do nothing for that: the kernel closes it however the
// holder ends, by SIGKILL too. The server is killed outright, since nothing that a test server holds outlives
// the test. If COMMAND ends by itself, supervise ends with the same exit status.
//
// With --remove, DIR is deleted once standard input has ended. Without COMMAND that is all it does.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// How long DIR is tried again while servers that write into it are still dying.
const removeDeadline = 20 * time.Second

func main() {
	pidFile := flag.String("pid-file", "", "file that receives the process id of COMMAND")
	remove := flag.String("remove", "", "folder to delete when standard input ends")
	flag.Parse()

	// A Ctrl-C at the terminal is for the program that owns the servers: it may still need them to clean up.
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP)

	code, err := run(flag.Args(), *pidFile, *remove)
	if err != nil {
		fmt.Fprintln(os.Stderr, "supervise:", err)
	}
	os.Exit(code)
}

func run(command []string, pidFile, remove string) (int, error) {
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()

	if len(command) == 0 {
		<-ended
		return 0, removeAll(remove)
	}

	// Pdeathsig is bound to the thread that starts the child, so that thread must live as long as we do.
	runtime.LockOSThread()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout = os.Stdout
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 127, err
	}
	if pidFile != "" {
		if err := writeAtomically(pidFile, strconv.Itoa(cmd.Process.Pid)); err != nil {
			_ = kill(cmd)
			return 1, err
		}
	}

	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	select {
	case err := <-exited:
		return exitCode(err), nil
	case <-ended:
		err := kill(cmd)
		<-exited
		return 0, errors.Join(err, removeAll(remove))
	}
}

func kill(cmd *exec.Cmd) error {
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("cannot kill process group %d: %w", cmd.Process.Pid, err)
	}
	return nil
}

func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		return exit.ExitCode()
	default:
		return 1
	}
}

func removeAll(dir string) error {
	if dir == "" {
		return nil
	}
	deadline := time.Now().Add(removeDeadline)
	for {
		err := os.RemoveAll(dir)
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// A reader polls for the file, so it must never see half of it.
func writeAtomically(path, text string) error {
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
