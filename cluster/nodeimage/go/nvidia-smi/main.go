// nvidia-smi for simulated GPUs: hands its arguments to the node's agent and prints the answer.
//
// It is a program of its own, and static, since it is mounted into containers of any kind.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	defaultSocket = "/run/kailab-gpu/gpu.sock"
	patience      = 5 * time.Second // an agent that is being restarted is back by then
	wrongArgument = 2
	noDriver      = 9 // what the real tool exits with when there is no driver to talk to
)

type request struct {
	ID   int      `json:"id"`
	Op   string   `json:"op"`
	Argv []string `json:"argv"`
}

type answer struct {
	Exit    int    `json:"exit"`
	Stdout  string `json:"stdout"`
	Error   string `json:"error"`
	Message string `json:"message"`
}

func main() {
	argv, every, err := loop(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(wrongArgument)
	}
	for {
		status := once(argv)
		if every == 0 || status != 0 {
			os.Exit(status)
		}
		time.Sleep(every)
	}
}

// loop takes -l, --loop and -lms out of the arguments.
func loop(args []string) ([]string, time.Duration, error) {
	rest := []string{}
	every := time.Duration(0)
	for i := 0; i < len(args); i++ {
		name, value, equals := strings.Cut(args[i], "=")
		unit := map[string]time.Duration{
			"-l": time.Second, "--loop": time.Second, "-lms": time.Millisecond, "--loop-ms": time.Millisecond,
		}[name]
		if unit == 0 {
			rest = append(rest, args[i])
			continue
		}
		if !equals {
			value = "5"
			if i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
				i++
				value = args[i]
			}
		}
		number, err := strconv.Atoi(value)
		if err != nil || number < 1 {
			return nil, 0, fmt.Errorf("%s wants a whole number above 0, not %q", name, value)
		}
		every = time.Duration(number) * unit
	}
	return rest, every, nil
}

func once(argv []string) int {
	connection, err := dial()
	if err != nil {
		fmt.Fprintln(os.Stderr, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "+
			"Make sure that the latest NVIDIA driver is installed and running.")
		fmt.Fprintln(os.Stderr, "(The GPU is simulated by kailab; its agent on this node does not answer:", err.Error()+")")
		return noDriver
	}
	defer connection.Close()
	if err := json.NewEncoder(connection).Encode(request{1, "smi", argv}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return noDriver
	}
	var got answer
	if err := json.NewDecoder(bufio.NewReader(connection)).Decode(&got); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return noDriver
	}
	if got.Error != "" {
		fmt.Fprintln(os.Stderr, got.Message)
		return wrongArgument
	}
	fmt.Print(got.Stdout)
	return got.Exit
}

func dial() (net.Conn, error) {
	path := os.Getenv("KAILAB_GPU_SOCKET")
	if path == "" {
		path = defaultSocket
	}
	deadline := time.Now().Add(patience)
	for {
		connection, err := net.Dial("unix", path)
		if err == nil || time.Now().After(deadline) {
			return connection, err
		}
		time.Sleep(100 * time.Millisecond)
	}
}
