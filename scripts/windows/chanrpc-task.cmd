@echo off
rem Registers a node as a scheduled task that starts with Windows. Run it as administrator.
rem The task's definition, chanrpc-task.xml, must be in the same directory.
setlocal
set folder=%ProgramFiles%\chanrpc
set config=%folder%\node.toml

if "%~1"=="install" goto install
if "%~1"=="start" goto start
if "%~1"=="stop" goto stop
if "%~1"=="status" goto status
if "%~1"=="remove" goto remove
echo Usage: chanrpc-task.cmd install^|start^|stop^|status^|remove
echo.
echo   install  register the task, or apply a changed chanrpc-task.xml
echo   start    start the node now; it always starts with Windows
echo   stop     stop the node immediately, including calls in flight
echo   status   print the state of the task
echo   remove   stop the node and delete the task
echo.
echo The node is %folder%\chanrpc.exe
echo and its configuration %config%
exit /b 2

:install
if not exist "%folder%\chanrpc.exe" (
    echo chanrpc-task: copy chanrpc.exe into "%folder%" first 1>&2
    exit /b 1
)
"%folder%\chanrpc.exe" serve --check --config "%config%"
if errorlevel 1 exit /b 1
schtasks /create /tn chanrpc /xml "%~dp0chanrpc-task.xml" /f
exit /b %errorlevel%

:start
schtasks /run /tn chanrpc
exit /b %errorlevel%

:stop
schtasks /end /tn chanrpc
exit /b %errorlevel%

:status
schtasks /query /tn chanrpc /v /fo list
exit /b %errorlevel%

:remove
schtasks /end /tn chanrpc
schtasks /delete /tn chanrpc /f
exit /b %errorlevel%
