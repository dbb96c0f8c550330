"use strict";

/** What a process is called, and whether it lives. */

const { native } = require("./client.js");

function isAlive(pid, comm) {
  return typeof pid === "number" && native.isAlive(pid, typeof comm === "string" ? comm : undefined);
}

function getProcessComm() {
  return native.processComm();
}

function getProcessCommForPid(pid) {
  return typeof pid === "number" ? native.processCommForPid(pid) : null;
}

function getProcessStartTime(pid) {
  return typeof pid === "number" ? native.processStartTime(pid) : null;
}

module.exports = {
  getProcessComm,
  getProcessCommForPid,
  getProcessStartTime,
  isAlive,
};
