# docker build -t clinch . && docker run --rm -v "$PWD:/data" -w /data clinch evaluate net.onnx --data digits --eps 0.02
FROM python:3.11-slim AS build
WORKDIR /clinch
COPY . .
RUN python -m pip wheel --no-cache-dir --no-deps --build-constraint constraints.txt --wheel-dir /wheels .

FROM python:3.11-slim
COPY --from=build /wheels /wheels
COPY constraints.txt /wheels/constraints.txt
RUN python -m pip install --no-cache-dir --constraint /wheels/constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu \
        "clinch-nn[all] @ file://$(ls /wheels/*.whl)" && \
    useradd --create-home clinch
USER clinch
ENV OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
ENTRYPOINT ["clinch"]
CMD ["--help"]
