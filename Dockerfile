# mytalk on an NVIDIA card: docker compose up (compose.yaml). Not built or run by its authors yet: there was no card.
# The driver must support CUDA 13 (580 or newer). For a CPU, `make serve` needs no container.
FROM nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04

# gcc and Python's headers: torch.compile builds its kernels' launchers when the server warms up.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 10001 mytalk \
    && python3 -m venv /opt/venv \
    && install -d -o mytalk -g mytalk /mytalk/.cache /mytalk/my-actors
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /mytalk

# The libraries in layers of their own, since they are 8 GB and change seldom. TensorRT is not on PyPI.
ARG TENSORRT_INDEX=https://pypi.nvidia.com
COPY pyproject.toml constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt torch==2.13.0 safetensors \
    && pip install --no-cache-dir -c constraints.txt --extra-index-url "$TENSORRT_INDEX" \
        torch-tensorrt==2.13.0 "tensorrt==11.0.*"
# onnxruntime-gpu instead of onnxruntime, never both: they share one folder, and the last one installed wins.
RUN python3 -c "import tomllib; \
print(*(d for d in tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'] \
if not d.startswith('onnxruntime')), sep='\n')" > /tmp/needs.txt \
    && pip install --no-cache-dir -c constraints.txt -r /tmp/needs.txt "onnxruntime-gpu==1.31.*"

COPY . .
RUN pip install --no-cache-dir --no-deps -e . \
    && ! pip show --quiet onnxruntime

USER mytalk
EXPOSE 8080 50000-50099/udp
# TensorRT engines are built at the first start: minutes, kept in the cache's volume.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20m --retries=3 \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["python3", "-m", "server", "--host", "0.0.0.0", "--udp-ports", "50000-50099"]
CMD ["--max-sessions", "16"]
